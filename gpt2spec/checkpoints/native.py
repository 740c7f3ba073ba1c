"""Our own checkpoints are folders with checksums, so that a damaged one is refused.

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

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import save_file

from gpt2spec.checkpoints.huggingface import config_from_json, config_to_json
from gpt2spec.checkpoints.reader import CheckpointReader, Entry, Tensors, entry_of, fitting
from gpt2spec.checkpoints.safetensors_file import open_safetensors, write_safetensors
from gpt2spec.checkpoints.stored import StoredArray, read_errors
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
    """The state of training beyond the weights: AdamW's moments, and where it was.

    `progress` is what `state.json` holds: "step" and whatever the training loop adds.
    """

    m: HostParams
    v: HostParams
    progress: dict[str, Any]


@dataclass(frozen=True)
class NativeCheckpoint:
    """An opened checkpoint of ours; each tensor's file is verified when weights or moments are asked for.

    Attributes:
        folder: where it stands.
        config: the model's shape.
        progress: what `state.json` holds.
        sums: the recorded hash of each file.
    """

    folder: Path
    config: GPT2Config
    progress: Mapping[str, Any]
    sums: Mapping[str, str]

    @property
    def sharded_by(self) -> str | None:
        """The name of the backend that wrote the tensors as shards; None where they are whole."""
        return self.progress.get(PARTS)

    def reader(self) -> NativeReader:
        """The weights as every format has them, verified but not read."""
        form = "gpt2spec" if self.sharded_by is None else f"gpt2spec, in parts of backend {self.sharded_by}"
        tokenizer = self.progress.get("tokenizer")
        return NativeReader(self.folder, form, self.config, self.weights(), tokenizer, checkpoint=self)

    def weights(self) -> dict[str, Entry]:
        """The weights, verified but not read."""
        if self.sharded_by is not None:
            return self._sharded(self.sharded_by, "params")
        stored = self._stored(MODEL)
        entries = {name: entry_of(name, array) for name, array in stored.items()}
        return fitting(self.folder / MODEL, self.config, entries)

    def moments(self) -> dict[str, dict[str, Entry]]:
        """Both of AdamW's moments, "m" and "v", verified but not read."""
        if self.sharded_by is not None:
            return {kind: self._sharded(self.sharded_by, kind) for kind in MOMENTS}
        found: dict[str, dict[str, Entry]] = {kind: {} for kind in MOMENTS}
        for name, array in self._stored(OPTIMIZER).items():
            kind, _, weight = name.partition(".")
            found.setdefault(kind, {})[weight] = entry_of(name, array)
        return {kind: fitting(self.folder / OPTIMIZER, self.config, found[kind]) for kind in MOMENTS}

    def params(self) -> HostParams:
        """Read the weights, but not the moments."""
        return {name: entry.load() for name, entry in self.weights().items()}

    def training(self) -> TrainingState:
        """The moments, read, and the progress."""
        moments = self.moments()
        m, v = ({name: entry.load() for name, entry in moments[kind].items()} for kind in MOMENTS)
        return TrainingState(m, v, dict(self.progress))

    def shards(self, kind: str | None = None) -> list[str]:
        """The files of all shards, or those of one kind, "params", "m" or "v": what is there, and what should be."""
        place = f"{PARTS}/" if kind is None else f"{PARTS}/{kind}/"
        paths = (path for path in (self.folder / PARTS).rglob("*") if path.is_file())
        found = {path.relative_to(self.folder).as_posix() for path in paths}
        return [name for name in sorted(found | self.sums.keys()) if name.startswith(place)]

    def verify(self, names: Iterable[str] | None = None) -> None:
        """Raise `CheckpointError` unless some files, by default all, are there and have their recorded hashes."""
        if names is None:
            tensors = {MODEL, OPTIMIZER} if self.sharded_by is None else set(self.shards())
            names = sorted({CONFIG, STATE} | tensors | self.sums.keys())
        _verify(self.folder, names, self.sums)

    def _stored(self, name: str) -> dict[str, StoredArray]:
        self.verify([name])
        return open_safetensors(self.folder / name).tensors

    def _sharded(self, writer: str, kind: str) -> dict[str, Entry]:
        """The weights or moments that the backend called `writer` has written as shards; each is read whole."""
        self.verify(self.shards(kind))
        place = self.folder / PARTS / kind
        stored = open_sharded(writer, place)
        entries = {name: Entry(name, tensor.shape, tensor.dtype, tensor.read) for name, tensor in stored.items()}
        return fitting(place, self.config, entries)


@dataclass(frozen=True)
class NativeReader(CheckpointReader):
    """The weights of one of our checkpoints.

    Attributes:
        checkpoint: has the moments as well.
    """

    checkpoint: NativeCheckpoint = field(kw_only=True)


def open_native(folder: Path) -> NativeCheckpoint:
    """Open a checkpoint folder; the files that describe it are verified."""
    with read_errors(folder):
        if not folder.is_dir():
            raise CheckpointError(f"there is no checkpoint {folder}")
        if not (folder / SUMS).exists() and not (folder / STATE).exists():
            raise CheckpointError(f"{folder} is no checkpoint of gpt2spec: it has neither {SUMS} nor {STATE}")
    try:
        sums = recorded_sums(folder)
    except CheckpointError as error:
        raise CheckpointError(f"the checkpoint {folder} is damaged: {SUMS} is missing or unreadable") from error
    _verify(folder, (CONFIG, STATE), sums)
    with read_errors(folder / STATE):
        progress = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return NativeCheckpoint(folder, config_from_json(folder / CONFIG), progress, sums)


def is_native(folder: Path) -> bool:
    """Whether a folder is one of our checkpoints, whole or damaged: other folders may have `SHA256SUMS` as well."""
    return any((folder / name).is_file() or lists(folder, name) for name in (STATE, OPTIMIZER))


def checkpoint_folder(run: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` updates, in a run directory."""
    return run / "checkpoints" / f"step-{step:08d}"


def checkpoint_steps(run: Path) -> list[int]:
    """Steps of the checkpoints in a run directory, in order."""
    with read_errors(run):
        folders = list((run / "checkpoints").glob("step-*")) if (run / "checkpoints").is_dir() else []
    return sorted(int(match[1]) for folder in folders if (match := re.fullmatch(r"step-(\d+)", folder.name)))


def chosen_step(run: Path, step: int | None) -> int:
    """`step`, or the last one a run directory has a checkpoint of; a `CheckpointError` where there is none."""
    steps = checkpoint_steps(run)
    if not steps:
        raise CheckpointError(f"{run} holds no checkpoint")
    if step is not None and step not in steps:
        raise CheckpointError(f"{run} holds no checkpoint of step {step}; it has {', '.join(map(str, steps))}")
    return steps[-1] if step is None else step


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


def with_training(reader: CheckpointReader) -> NativeCheckpoint:
    """The checkpoint of which `reader` has the weights; `CheckpointError` unless training can go on from it."""
    if not isinstance(reader, NativeReader):
        raise CheckpointError(
            f"{reader.path} has only weights: moments and the position in the data are in gpt2spec's own"
        )
    return reader.checkpoint


def write_weights(
    folder: Path, config: GPT2Config, tensors: Tensors, dtype: str, record: TokenizerRecord | None
) -> None:
    """Write the weights of a checkpoint, in the order of the weight table, and its tokenizer; see `copy_training`."""
    if dtype != "float32":
        raise CheckpointError(f"a checkpoint that training goes on from is float32, not {dtype}")
    with (folder / MODEL).open("wb") as file:
        write_safetensors(file, weight_table(config), tensors, dtype, {"format": "pt"})
    if record is not None and record.tokenizer is not None:
        write_tokenizer(folder, record.tokenizer, config.n_ctx)


def copy_training(source: NativeCheckpoint, folder: Path) -> None:
    """Write what `source` has beside its weights to a checkpoint that has these, a moment at a time, and the hashes."""
    moments = source.moments()
    rows = [(kind, weight) for kind in MOMENTS for weight in weight_table(source.config)]
    table = [weight._replace(name=f"{kind}.{weight.name}") for kind, weight in rows]
    values = ((weight.name, moments[kind][weight.name].load()) for kind, weight in rows)
    with (folder / OPTIMIZER).open("wb") as file:
        write_safetensors(file, table, values, "float32", {})
    progress = {name: value for name, value in source.progress.items() if name != PARTS}
    write_description(folder, source.config, "float32", progress, None)
    write_sums(folder)


def _verify(folder: Path, names: Iterable[str], sums: Mapping[str, str]) -> None:
    """Raise `CheckpointError` unless the named files are there and have the hashes in `sums`."""
    with read_errors(folder):
        for name in names:
            if not (folder / name).is_file():
                raise CheckpointError(f"the checkpoint {folder} is damaged: {name} is missing")
            if readable_sum(folder / name) != sums.get(name):
                raise CheckpointError(f"the checkpoint {folder} is damaged: {name} does not match its checksum")
