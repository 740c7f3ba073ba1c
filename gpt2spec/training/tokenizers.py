"""This module finds the tokenizer of a run, and keeps a copy in the run directory."""

from pathlib import Path

from gpt2spec.data.dataset import Dataset
from gpt2spec.errors import ConfigError
from gpt2spec.files import atomic_folder
from gpt2spec.tokenizer import (
    UNKNOWN,
    Tokenizer,
    comes_along,
    read_tokenizer,
    recorded_tokenizer,
    write_tokenizer,
)
from gpt2spec.tokenizer.saved import FOLDER, MERGES


def own_tokenizer(run: Path) -> Tokenizer | None:
    """The tokenizer that a run directory has a copy of; None where there is none."""
    return read_tokenizer(run / FOLDER) if (run / FOLDER / MERGES).is_file() else None


def decoding_tokenizer(dataset: Dataset, encoding: Tokenizer) -> Tokenizer | None:
    """The tokenizer that made the data; None for token files that do not record it."""
    if dataset.tokenizer_id == encoding.id:
        return encoding
    if dataset.tokenizer_id == UNKNOWN:
        return None
    return recorded_tokenizer(dataset.tokenizer_id, dataset.folder)


def check_same_tokenizer(named: str | None, encoding: Tokenizer, dataset: Dataset) -> None:
    """Raise where the tokenizer `encoding` was `named`, but another one made the data."""
    if named is not None and encoding.id != dataset.tokenizer_id:
        raise ConfigError(f"{dataset.name} was prepared with {dataset.tokenizer_id}, not with {named!r}")


def keep_tokenizer(run: Path, tokenizer: Tokenizer | None) -> None:
    """Copy a tokenizer that does not come with gpt2spec into a new run directory."""
    if tokenizer is None or comes_along(tokenizer.id):
        return
    with atomic_folder(run / FOLDER, replace=True) as folder:
        write_tokenizer(folder, tokenizer)
