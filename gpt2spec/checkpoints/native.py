"""Our own checkpoints: a folder that is either whole or refused.

model.safetensors       weights with the Hugging Face names, in the dtype they are trained in
config.json             the model's shape, as `transformers` reads it
optimizer.safetensors   AdamW's moments, `m.` and `v.` before the names
state.json              step, position in the data, and what a resumed run must agree with
merges.txt, vocab.json, tokenizer_config.json   the tokenizer, as `transformers` reads it
SHA256SUMS              hashes of the files above, in the form of `sha256sum`

A sharded one (see `gpt2spec.checkpoints.sharded`) has in the place of the two files of tensors:

parts/params/           weights, in the files of a backend whose name stands in state.json, at "parts"
parts/m/, parts/v/      AdamW's moments, likewise
"""

import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from gpt2spec.checkpoints.huggingface import config_from_json, config_to_json
from gpt2spec.checkpoints.reader import CheckpointReader, Entry, entry_of, fitting
from gpt2spec.checkpoints.safetensors_file import open_safetensors, write_safetensors
from gpt2spec.checkpoints.stored import read_errors
from gpt2spec.checkpoints.sums import SUMS, lists, readable_sum, recorded_sums, write_sums
from gpt2spec.checkpoints.tokenizers import TokenizerRecord
from gpt2spec.config import GPT2Config
from gpt2spec.errors import CheckpointError, StorageError
from gpt2spec.files import atomic_folder, make_folder, storage_errors
from gpt2spec.parameters import HostParams, weight_table
from gpt2spec.plugins import open_sharded
from gpt2spec.tokenizer import Tokenizer, write_tokenizer
from gpt2spec.tokenizer.saved import TOKENIZER_FILES

MODEL, CONFIG, OPTIMIZER, STATE = "model.safetensors", "config.json", "optimizer.safetensors", "state.json"
PARTS, MOMENTS = "parts", ("m", "v")
FILES = frozenset({MODEL, CONFIG, OPTIMIZER, STATE, SUMS, *TOKENIZER_FILES})


@dataclass(frozen=True)
class TrainingState:
    """What training needs beyond the weights: AdamW's moments, and where it was.

    `progress` is what `state.json` holds: "step" and whatever the training loop adds.
    """

    m: HostParams
    v: HostParams
    progress: dict[str, Any]


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint after `step` updates stands in a run directory."""
    return run / "checkpoints" / f"step-{step:08d}"


def checkpoint_steps(run: Path) -> list[int]:
    """Steps of the checkpoints in a run directory, in order."""
    with read_errors(run):
        folders = list((run / "checkpoints").glob("step-*")) if (run / "checkpoints").is_dir() else []
    return sorted(int(match[1]) for folder in folders if (match := re.fullmatch(r"step-(\d+)", folder.name)))


def save_checkpoint(
    run: Path, config: GPT2Config, params: HostParams, training: TrainingState, tokenizer: Tokenizer | None = None
) -> Path:
    """Write the checkpoint of `training.progress["step"]` and return its folder; one of that step is replaced."""
    target = checkpoint_folder(run, training.progress["step"])
    make_folder(target.parent)
    moments = {f"m.{name}": x for name, x in training.m.items()} | {f"v.{name}": x for name, x in training.v.items()}
    with atomic_folder(target, replace=True) as folder:
        try:
            save_file(params, folder / MODEL, metadata={"format": "pt"})  # transformers asks for the format
            save_file(moments, folder / OPTIMIZER)
        except SafetensorError as error:
            raise StorageError(f"cannot write {target}: {error}") from error
        dtype = str(params["wte.weight"].dtype)
        write_description(folder, config, dtype, training.progress, tokenizer)
        write_sums(folder)
    return target


def write_description(
    folder: Path, config: GPT2Config, dtype: str, progress: dict[str, Any], tokenizer: Tokenizer | None
) -> None:
    """Write the files of a checkpoint that hold no tensors."""
    (folder / CONFIG).write_text(json.dumps(config_to_json(config, dtype), indent=2) + "\n")
    (folder / STATE).write_text(json.dumps(progress, indent=2) + "\n")
    if tokenizer is not None:
        write_tokenizer(folder, tokenizer, config.n_ctx)


def remove_checkpoint(folder: Path) -> None:
    """Delete a checkpoint; killed halfway, it leaves nothing that looks like one."""
    doomed = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(doomed, ignore_errors=True)
    with storage_errors(folder):
        folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def verify_checkpoint(folder: Path, names: tuple[str, ...] = (MODEL, CONFIG, OPTIMIZER, STATE)) -> None:
    """Raise `CheckpointError` unless the named files are there and have their recorded hashes."""
    with read_errors(folder):
        if not folder.is_dir():
            raise CheckpointError(f"there is no checkpoint {folder}")
        if not (folder / SUMS).exists() and not (folder / STATE).exists():
            raise CheckpointError(f"{folder} is no checkpoint of gpt2spec: it has neither {SUMS} nor {STATE}")
        expected = native_sums(folder)
        for name in names:
            if not (folder / name).is_file():
                raise CheckpointError(f"the checkpoint {folder} is damaged: {name} is missing")
            if readable_sum(folder / name) != expected.get(name):
                raise CheckpointError(f"the checkpoint {folder} is damaged: {name} does not match its checksum")


def native_sums(folder: Path) -> dict[str, str]:
    """What the `SHA256SUMS` of a checkpoint says of each file."""
    try:
        return recorded_sums(folder)
    except CheckpointError as error:
        raise CheckpointError(f"the checkpoint {folder} is damaged: {SUMS} is missing or unreadable") from error


def files_in_parts(folder: Path, *kinds: str) -> tuple[str, ...]:
    """The files in `parts`, or in some of its folders: those that are there, and those that should be."""
    places = [f"{PARTS}/{kind}/" for kind in kinds] or [f"{PARTS}/"]
    found = {path.relative_to(folder).as_posix() for path in (folder / PARTS).rglob("*") if path.is_file()}
    names = sorted(found | native_sums(folder).keys())
    return tuple(name for name in names if any(name.startswith(place) for place in places))


def open_native(folder: Path) -> CheckpointReader:
    """A checkpoint folder, its files of the model verified; the weights are not read yet."""
    if (folder / PARTS).is_dir():
        progress, config = load_progress(folder), load_config(folder)
        entries = _entries_in_parts(folder, config, progress[PARTS], "params")
        return CheckpointReader(
            folder, f"gpt2spec, in parts of backend {progress[PARTS]}", config, entries, progress.get("tokenizer")
        )
    verify_checkpoint(folder, (MODEL, CONFIG))
    config = config_from_json(folder / CONFIG)
    stored = open_safetensors(folder / MODEL).tensors
    entries = fitting(folder / MODEL, config, {name: entry_of(name, array) for name, array in stored.items()})
    return CheckpointReader(folder, "gpt2spec", config, entries, load_progress(folder).get("tokenizer"))


def is_native(folder: Path) -> bool:
    """Whether a folder is one of our checkpoints, whole or damaged: other folders may have `SHA256SUMS` as well."""
    return any((folder / name).is_file() or lists(folder, name) for name in (STATE, OPTIMIZER))


def load_model(folder: Path) -> tuple[GPT2Config, HostParams]:
    """The configuration and weights of a checkpoint folder, verified; the moments are not read."""
    reader = open_native(folder)
    return reader.config, reader.params()


def load_progress(folder: Path) -> dict[str, Any]:
    """The `state.json` of a checkpoint folder, verified."""
    verify_checkpoint(folder, (STATE,))
    with read_errors(folder / STATE):
        return json.loads((folder / STATE).read_text(encoding="utf-8"))


def check_has_training(folder: Path) -> None:
    """Raise unless a checkpoint has what training goes on from."""
    if not is_native(folder):
        raise CheckpointError(f"{folder} has only weights: moments and the position in the data are in gpt2spec's own")


def write_weights(
    folder: Path,
    config: GPT2Config,
    tensors: Iterable[tuple[str, np.ndarray]],
    dtype: str,
    record: TokenizerRecord | None,
) -> None:
    """Write the weights of a checkpoint, in the order of the weight table, and its tokenizer; see `copy_training`."""
    if dtype != "float32":
        raise CheckpointError(f"a checkpoint that training goes on from is float32, not {dtype}")
    with (folder / MODEL).open("wb") as file:
        write_safetensors(file, weight_table(config), tensors, dtype, {"format": "pt"})
    if record is not None and record.tokenizer is not None:
        write_tokenizer(folder, record.tokenizer, config.n_ctx)


def copy_training(source: Path, folder: Path, config: GPT2Config) -> None:
    """Write what `source` has beside its weights to a checkpoint that has these, a moment at a time, and the hashes."""
    progress = load_progress(source)
    moments = _moments(source, config, progress.pop(PARTS, None))
    rows = [(kind, weight) for kind in MOMENTS for weight in weight_table(config)]
    table = [weight._replace(name=f"{kind}.{weight.name}") for kind, weight in rows]
    values = ((weight.name, moments[kind][weight.name].load()) for kind, weight in rows)
    with (folder / OPTIMIZER).open("wb") as file:
        write_safetensors(file, table, values, "float32", {})
    write_description(folder, config, "float32", progress, None)
    write_sums(folder)


def load_config(folder: Path) -> GPT2Config:
    """The configuration of a checkpoint folder, verified."""
    verify_checkpoint(folder, (CONFIG,))
    return config_from_json(folder / CONFIG)


def load_training(folder: Path) -> TrainingState:
    """The training state of a checkpoint folder, verified."""
    progress, config = load_progress(folder), load_config(folder)
    moments = _moments(folder, config, progress.get(PARTS))
    m, v = ({name: entry.load() for name, entry in moments[kind].items()} for kind in MOMENTS)
    return TrainingState(m, v, progress)


def chosen_step(run: Path, step: int | None) -> int:
    """`step`, or the last one a run directory has a checkpoint of; a `CheckpointError` where there is none."""
    steps = checkpoint_steps(run)
    if not steps:
        raise CheckpointError(f"{run} holds no checkpoint")
    if step is not None and step not in steps:
        raise CheckpointError(f"{run} holds no checkpoint of step {step}; it has {', '.join(map(str, steps))}")
    return steps[-1] if step is None else step


def _moments(folder: Path, config: GPT2Config, writer: str | None) -> dict[str, dict[str, Entry]]:
    """Both of AdamW's moments, verified but not read; of a whole checkpoint where there is no `writer` of parts."""
    if writer is not None:
        return {kind: _entries_in_parts(folder, config, writer, kind) for kind in MOMENTS}
    verify_checkpoint(folder, (OPTIMIZER,))
    stored = open_safetensors(folder / OPTIMIZER).tensors
    found: dict[str, dict[str, Entry]] = {kind: {} for kind in MOMENTS}
    for name, array in stored.items():
        kind, _, weight = name.partition(".")
        found.setdefault(kind, {})[weight] = entry_of(name, array)
    return {kind: fitting(folder / OPTIMIZER, config, found[kind]) for kind in MOMENTS}


def _entries_in_parts(folder: Path, config: GPT2Config, writer: str, kind: str) -> dict[str, Entry]:
    """The weights or moments that a backend wrote in parts, verified; each is read whole."""
    verify_checkpoint(folder, files_in_parts(folder, kind))
    place = folder / PARTS / kind
    stored = open_sharded(writer, place)
    entries = {name: Entry(name, tensor.shape, tensor.dtype, tensor.read) for name, tensor in stored.items()}
    return fitting(place, config, entries)
