"""Our own checkpoints: a folder that is either whole or refused.

model.safetensors       weights with the Hugging Face names, in the dtype they are trained in
config.json             the model's shape, as `transformers` reads it
optimizer.safetensors   AdamW's moments, `m.` and `v.` before the names
state.json              step, position in the data, and what a resumed run must agree with
merges.txt, vocab.json, tokenizer_config.json   the tokenizer, as `transformers` reads it
SHA256SUMS              hashes of the files above, in the form of `sha256sum`
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from gpt2spec.checkpoints.huggingface import config_from_json, config_to_json
from gpt2spec.checkpoints.reader import CheckpointReader, entry_of, fitting
from gpt2spec.checkpoints.safetensors_file import open_safetensors
from gpt2spec.config import GPT2Config
from gpt2spec.errors import CheckpointError, InputError, StorageError
from gpt2spec.files import atomic_folder, make_folder, sha256_of_file
from gpt2spec.parameters import HostParams, check_parameters
from gpt2spec.tokenizer import Tokenizer, write_tokenizer
from gpt2spec.tokenizer.saved import TOKENIZER_FILES

T = TypeVar("T")

MODEL, CONFIG, OPTIMIZER, STATE, SUMS = (
    "model.safetensors",
    "config.json",
    "optimizer.safetensors",
    "state.json",
    "SHA256SUMS",
)


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
    folders = (run / "checkpoints").glob("step-*") if (run / "checkpoints").is_dir() else []
    return sorted(int(match[1]) for folder in folders if (match := re.fullmatch(r"step-(\d+)", folder.name)))


def save_checkpoint(
    run: Path, config: GPT2Config, params: HostParams, training: TrainingState, tokenizer: Tokenizer | None = None
) -> Path:
    """Write the checkpoint of `training.progress["step"]` and return its folder; one of that step is replaced."""
    target = checkpoint_folder(run, training.progress["step"])
    make_folder(target.parent)
    moments = {f"m.{name}": x for name, x in training.m.items()} | {f"v.{name}": x for name, x in training.v.items()}
    with atomic_folder(target) as folder:
        try:
            save_file(params, folder / MODEL, metadata={"format": "pt"})  # transformers asks for the format
            save_file(moments, folder / OPTIMIZER)
        except SafetensorError as error:
            raise StorageError(f"cannot write {target}: {error}") from error
        (folder / CONFIG).write_text(
            json.dumps(config_to_json(config, str(params["wte.weight"].dtype)), indent=2) + "\n"
        )
        (folder / STATE).write_text(json.dumps(training.progress, indent=2) + "\n")
        if tokenizer is not None:
            write_tokenizer(folder, tokenizer, config.n_ctx)
        names = (MODEL, CONFIG, OPTIMIZER, STATE, *(TOKENIZER_FILES if tokenizer is not None else ()))
        sums = (f"{sha256_of_file(folder / name)}  {name}\n" for name in names)
        (folder / SUMS).write_text("".join(sums))
        if target.exists():  # only now that the new one is whole
            remove_checkpoint(target)
    return target


def remove_checkpoint(folder: Path) -> None:
    """Delete a checkpoint; killed halfway, it leaves nothing that looks like one."""
    doomed = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def verify_checkpoint(folder: Path, names: tuple[str, ...] = (MODEL, CONFIG, OPTIMIZER, STATE)) -> None:
    """Raise `CheckpointError` unless the named files are there and have their recorded hashes."""
    if not folder.is_dir():
        raise CheckpointError(f"there is no checkpoint {folder}")
    if not (folder / SUMS).exists() and not (folder / STATE).exists():
        raise CheckpointError(f"{folder} is no checkpoint of gpt2spec: it has neither {SUMS} nor {STATE}")
    try:
        lines = (folder / SUMS).read_text(encoding="ascii").splitlines()
        expected = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the checkpoint {folder} is damaged: {SUMS} is missing or unreadable") from error
    for name in names:
        if not (folder / name).is_file():
            raise CheckpointError(f"the checkpoint {folder} is damaged: {name} is missing")
        if sha256_of_file(folder / name) != expected.get(name):
            raise CheckpointError(f"the checkpoint {folder} is damaged: {name} does not match its checksum")


def open_native(folder: Path) -> CheckpointReader:
    """A checkpoint folder, its files of the model verified; the weights are not read yet."""
    verify_checkpoint(folder, (MODEL, CONFIG))
    config = config_from_json(folder / CONFIG)
    stored = open_safetensors(folder / MODEL).tensors
    entries = fitting(folder / MODEL, config, {name: entry_of(name, array) for name, array in stored.items()})
    return CheckpointReader(folder, "gpt2spec", config, entries, load_progress(folder).get("tokenizer"))


def is_native(folder: Path) -> bool:
    """Whether a folder is one of our checkpoints, whole or damaged."""
    return any((folder / name).is_file() for name in (SUMS, STATE, OPTIMIZER))


def load_model(folder: Path) -> tuple[GPT2Config, HostParams]:
    """The configuration and weights of a checkpoint folder, verified; the moments are not read."""
    reader = open_native(folder)
    return reader.config, reader.params()


def load_progress(folder: Path) -> dict[str, Any]:
    """The `state.json` of a checkpoint folder, verified."""
    verify_checkpoint(folder, (STATE,))
    return _read(folder / STATE, lambda path: json.loads(path.read_text(encoding="utf-8")))


def load_training(folder: Path) -> TrainingState:
    """The training state of a checkpoint folder, verified."""
    verify_checkpoint(folder, (CONFIG, OPTIMIZER))
    config = config_from_json(folder / CONFIG)
    moments = _read(folder / OPTIMIZER, load_file)
    m, v = ({name[2:]: x for name, x in moments.items() if name.startswith(prefix)} for prefix in ("m.", "v."))
    m, v = (_fitting(config, each, folder / OPTIMIZER) for each in (m, v))
    return TrainingState(m, v, load_progress(folder))


def find_checkpoint(path: Path, step: int | None = None) -> Path:
    """The checkpoint folder meant by `path`: itself, or in a run directory the one of `step`, or the latest."""
    if (path / SUMS).is_file() or (path / MODEL).is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"there is no run directory or checkpoint {path}")
    return checkpoint_folder(path, chosen_step(path, step))


def chosen_step(run: Path, step: int | None) -> int:
    """`step`, or the last one a run directory has a checkpoint of; a `CheckpointError` where there is none."""
    steps = checkpoint_steps(run)
    if not steps:
        raise CheckpointError(f"{run} holds no checkpoint")
    if step is not None and step not in steps:
        raise CheckpointError(f"{run} holds no checkpoint of step {step}; it has {', '.join(map(str, steps))}")
    return steps[-1] if step is None else step


def _fitting(config: GPT2Config, params: HostParams, path: Path) -> HostParams:
    try:
        return check_parameters(config, params)
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _read(path: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
