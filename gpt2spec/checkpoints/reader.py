"""The reader that every format is opened as: a configuration, and weights that are read one at a time."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2spec.checkpoints.stored import ITEM_SIZES, StoredArray, sha256_of_values
from gpt2spec.config import GPT2Config
from gpt2spec.errors import CheckpointError, ConfigError, nearest
from gpt2spec.parameters import HostParams, weight_table

WEIGHTS_OF_A_LAYER, OTHER_WEIGHTS = 12, 4
TRANSFORMER, HEAD, EMBEDDING = "transformer.", "lm_head.weight", "wte.weight"
"""The prefix of names in PyTorch models, their output head, and the weight that it shares."""

Tensors = Iterable[tuple[str, np.ndarray]]
"""Weights with our names and shapes, one after the other, in the order in which a format stores them."""


@dataclass(frozen=True)
class Entry:
    """A weight in a file that has not been read yet.

    Attributes:
        name: its name in the file.
        shape: its shape in the file.
        dtype: its dtype in the file, one of `ITEM_SIZES`.
        load: reads it, [*shape]; float64 if the file has that, otherwise float32.
        transposed: whether the file has [out, in] where GPT-2 has [in, out].
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], np.ndarray]
    transposed: bool = False


@dataclass(frozen=True)
class CheckpointReader:
    """An opened checkpoint of any format.

    Attributes:
        path: the file or folder.
        format: its name for people, such as "Hugging Face".
        config: the model's shape.
        entries: every weight of `weight_table(config)`, by our name and in its order.
        tokenizer: the `id` of the tokenizer it was trained with, if the checkpoint records it.
        notes: what a user should know about weights from such a file.
        merges: the merges of that tokenizer, as in a `vocab.bpe` file, if the checkpoint is a file that holds them.
    """

    path: Path
    format: str
    config: GPT2Config
    entries: Mapping[str, Entry]
    tokenizer: str | None = None
    notes: tuple[str, ...] = ()
    merges: str | None = None

    def read(self, name: str) -> np.ndarray:
        """Read one weight, in the shape of the weight table: float64 if the file has that, otherwise float32."""
        entry = self.entries[name]
        values = entry.load()
        return np.ascontiguousarray(values.T) if entry.transposed else values

    def params(self) -> HostParams:
        """Read all weights."""
        return {name: self.read(name) for name in self.entries}


def entry_of(name: str, stored: StoredArray, transposed: bool = False) -> Entry:
    """The entry of an array in a file."""
    return Entry(name, stored.shape, stored.dtype, stored.read, transposed)


def is_projection(name: str) -> bool:
    """Whether a weight is the matrix of a projection, which llm.c and nanoGPT store [out, in]."""
    return name.startswith("h.") and name.endswith(".weight") and ".ln_" not in name


def config_with(path: Path, values: Mapping[str, Any]) -> GPT2Config:
    """The configuration with these fields; a `CheckpointError` names `path` where they are invalid."""
    try:
        return GPT2Config(**values)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def fitting(path: Path, config: GPT2Config, entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """The entries in the order of the weight table. A `CheckpointError` names the first that does not fit `config`."""
    check_layers(path, config, entries)
    table = {weight.name: weight.shape for weight in weight_table(config)}
    missing = [name for name in table if name not in entries]
    unknown = [name for name in entries if name not in table]
    if unknown:
        found = entries[unknown[0]].name
        raise CheckpointError(f"{path}: GPT-2 has no weight {found!r}{_more(unknown)}{nearest(unknown[0], table)}")
    if missing:
        raise CheckpointError(
            f"{path}: the weight {missing[0]!r}{_more(missing)} is missing: {len(table)} weights are expected"
        )
    for name, shape in table.items():
        entry = entries[name]
        expected = shape[::-1] if entry.transposed else shape
        if entry.dtype not in ITEM_SIZES:
            raise CheckpointError(
                f"{path}: the weight {entry.name!r} is {entry.dtype}; {', '.join(ITEM_SIZES)} can be read"
            )
        if entry.shape != expected:
            raise CheckpointError(
                f"{path}: the weight {entry.name!r} has shape {list(entry.shape)}; {list(expected)} is expected"
            )
    return {name: entries[name] for name in table}


def check_layers(path: Path, config: GPT2Config, names: Collection[str]) -> None:
    """Raise where `config` has more layers than the weights can fill, before the table of its weights is made."""
    if WEIGHTS_OF_A_LAYER * config.n_layer > 2 * len(names) + WEIGHTS_OF_A_LAYER:
        raise CheckpointError(
            f"{path}: there are {len(names)} weights; a model of {config.n_layer} layers has "
            f"{WEIGHTS_OF_A_LAYER * config.n_layer + OTHER_WEIGHTS}"
        )


def drop_tied_head(path: Path, entries: dict[str, Entry]) -> None:
    """Drop the output head from `entries`; raise where it differs from the token embedding."""
    head, embedding = entries.pop(HEAD, None), entries.get(EMBEDDING)
    if head is None or embedding is None:
        return
    if head.shape != embedding.shape or sha256_of_values(head.load()) != sha256_of_values(embedding.load()):
        raise CheckpointError(
            f"{path}: {head.name!r} differs from {embedding.name!r}; GPT-2's output head is its token embedding"
        )


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
