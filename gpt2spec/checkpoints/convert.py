"""This module converts checkpoints between formats, one weight at a time."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gpt2spec.checkpoints import huggingface_folder, llmc, nanogpt, native
from gpt2spec.checkpoints.opening import open_checkpoint
from gpt2spec.checkpoints.reader import CheckpointReader, Tensors
from gpt2spec.checkpoints.stored import decoded, encoded, sha256_of_values
from gpt2spec.checkpoints.tokenizers import TokenizerRecord, record_of, tokenizer_of_size
from gpt2spec.config import GPT2Config
from gpt2spec.errors import CheckpointError, ConfigError, nearest
from gpt2spec.files import atomic_folder, atomic_write, make_folder, storage_errors
from gpt2spec.parameters import weight_table

DTYPES = ("float32", "bfloat16")


def order_of_table(config: GPT2Config) -> list[str]:
    """The names of the weights in the order of the weight table."""
    return [weight.name for weight in weight_table(config)]


@dataclass(frozen=True)
class Format:
    """A format that can be written.

    Attributes:
        title: its name for people.
        write: writes (seekable file or empty folder, configuration, weights in `order`, dtype, tokenizer or None).
        order: yields the weights in the order of the file.
        epsilon: that of its layer norm, where the format has no place for another.
        is_folder: whether it is a folder rather than a file.
        files: the files that such a folder may have.
        training: whether it also has the training state, as only our own format has.
        keeps_tokenizer: whether it has a place for the tokenizer.
        notes: what a user should know about weights in this format.
    """

    title: str
    write: Callable[[Any, GPT2Config, Tensors, str, TokenizerRecord | None], None]
    order: Callable[[GPT2Config], Iterable[str]] = order_of_table
    epsilon: float | None = None
    is_folder: bool = False
    files: frozenset[str] = frozenset()
    training: bool = False
    keeps_tokenizer: bool = True
    notes: tuple[str, ...] = ()


WRITABLE = {
    "hf": Format(
        "Hugging Face",
        huggingface_folder.write_folder,
        is_folder=True,
        files=huggingface_folder.FILES,
    ),
    "nanogpt": Format("nanoGPT", nanogpt.write_nanogpt, epsilon=nanogpt.EPSILON, notes=(nanogpt.GELU_NOTE,)),
    "llmc": Format("llm.c", llmc.write_llmc, llmc.order, llmc.EPSILON, keeps_tokenizer=False),
    "gpt2spec": Format(
        "gpt2spec, whole",
        native.write_weights,
        is_folder=True,
        files=native.FILES,
        training=True,
    ),
}


def convert(
    reader: CheckpointReader,
    target: Path,
    to: str,
    *,
    dtype: str = "float32",
    force: bool = False,
    progress: Callable[[int], object] = lambda count: None,
) -> dict[str, str]:
    """Write a checkpoint in another format, whole or not at all.

    Args:
        reader: from `open_checkpoint`.
        target: the file or folder to make.
        to: one of `WRITABLE`.
        dtype: one of `DTYPES`; wider values are rounded to the nearest.
        force: whether to replace an existing target of this format.
        progress: is called with the number of values after every weight.

    Returns:
        The SHA-256 of every weight as it was written, over its values as float32 in our shapes, for `verify`.

    Raises:
        ConfigError: for an unknown format or dtype, or a damaged tokenizer.
        CheckpointError: for an existing target, a damaged source, and a model that the format cannot express.
        StorageError: when the target cannot be written.
    """
    form = format_named(to)
    if dtype not in DTYPES:
        raise ConfigError(
            f"there is no dtype {dtype!r} to write{nearest(dtype, DTYPES)}; there are {', '.join(DTYPES)}"
        )
    if form.epsilon not in (None, reader.config.layer_norm_epsilon):
        raise CheckpointError(
            f"{form.title}'s layer norm has epsilon {form.epsilon}; this model's is {reader.config.layer_norm_epsilon}"
        )
    training = native.with_training(reader) if form.training else None
    with storage_errors(target):
        check_target(reader.path, target, form, force)
    hashes: dict[str, str] = {}

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        for name in form.order(reader.config):
            values = rounded(reader.read(name), dtype)
            hashes[name] = sha256_of_values(values)
            yield name, values
            progress(values.size)

    record = record_of(reader)
    make_folder(target.parent)
    with _opened(target, form) as file, storage_errors(target):
        form.write(file, reader.config, tensors(), dtype, record)
        if isinstance(file, Path) and training is not None:
            native.copy_training(training, file)
    return hashes


def notes_on(reader: CheckpointReader, form: Format) -> tuple[str, ...]:
    """What a user should know about the weights and the tokenizer of a converted checkpoint."""
    notes = tuple(dict.fromkeys((*reader.notes, *form.notes)))  # each once
    record = record_of(reader)
    if record is None:
        return notes
    if record.tokenizer is None:
        return (*notes, f"the tokenizer does not go along: {record.absence}")
    by_size = tokenizer_of_size(reader)
    if form.keeps_tokenizer or (by_size is not None and by_size.id == record.id):
        return notes
    return (*notes, f"{form.title}'s files have no place for the tokenizer, {record.id}: name it with --tokenizer")


def verify(target: Path, hashes: dict[str, str], progress: Callable[[int], object] = lambda count: None) -> None:
    """Read back what `convert` wrote. A `CheckpointError` names the first weight that differs."""
    written = open_checkpoint(target)
    for name, expected in hashes.items():
        values = written.read(name)
        if sha256_of_values(values) != expected:
            raise CheckpointError(f"{target} is damaged: the weight {name!r} is not what was written")
        progress(values.size)


def hashes_of(reader: CheckpointReader, progress: Callable[[int], object] = lambda count: None) -> dict[str, str]:
    """The SHA-256 of every weight's values in our shapes, which is equal for equal weights in any format."""
    hashes = {}
    for name in reader.entries:
        values = reader.read(name)
        hashes[name] = sha256_of_values(values)
        progress(values.size)
    return hashes


def format_named(name: str) -> Format:
    """The format called `name`, one of `WRITABLE`; any other name is a `ConfigError`."""
    if name not in WRITABLE:
        raise ConfigError(f"there is no format {name!r}{nearest(name, WRITABLE)}; there are {', '.join(WRITABLE)}")
    return WRITABLE[name]


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """The values as they are read back, as float32, from a file of `dtype`."""
    if dtype == "float32":
        return encoded(values, dtype)
    return decoded(encoded(values, dtype).reshape(-1).view(np.uint8), dtype).reshape(values.shape)


def check_target(source: Path, target: Path, form: Format, force: bool) -> None:
    """Raise where the target exists and may not be replaced: only checkpoints of this format may."""
    if not (target.exists() or target.is_symlink()):
        return
    if form.is_folder and target.is_dir() and not any(target.iterdir()):
        return
    if target.is_dir() != form.is_folder:
        expected = "folder" if form.is_folder else "file"
        raise CheckpointError(f"{target} exists and is no {expected}, which a checkpoint of {form.title} is")
    if not force:
        raise CheckpointError(f"{target} exists: choose another name, or replace it with --force")
    if source.resolve() == target.resolve() or target.resolve() in source.resolve().parents:
        raise CheckpointError(f"{target} is or holds the source: it cannot be replaced")
    others = {path.name for path in target.iterdir()} - form.files if target.is_dir() else set()
    if others:
        raise CheckpointError(f"{target} has other files, such as {sorted(others)[0]}: it is not replaced")


def _opened(target: Path, form: Format) -> AbstractContextManager[BinaryIO | Path]:
    """A temporary file or folder, which becomes `target` at the end."""
    return atomic_folder(target, replace=True) if form.is_folder else atomic_write(target)
