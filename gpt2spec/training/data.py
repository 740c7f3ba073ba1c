"""This module opens and verifies the data that a run's settings name."""

from __future__ import annotations

import glob
import shlex
from pathlib import Path
from typing import Any

from gpt2spec.backend import Backend
from gpt2spec.byte_progress import ByteProgress
from gpt2spec.config import VOCAB_SIZE
from gpt2spec.data.dataset import Dataset, is_text, open_dataset
from gpt2spec.data.mixed_dataset import open_mixture, path_and_weight
from gpt2spec.data.token_files import Vocabulary
from gpt2spec.errors import DataError
from gpt2spec.tokenizer import UNKNOWN, Tokenizer

Data = str | list[str] | None
"""The type of `RunSettings.data`: a path, paths with weights, or None for the text that comes with Python."""


def open_data(data: Data, tokenizer: Tokenizer, vocabulary: Vocabulary | None, progress: bool) -> Dataset:
    """Open the data of a run.

    Args:
        data: as in `RunSettings`.
        tokenizer: encodes raw text.
        vocabulary: see `vocabulary_of_token_files`.
        progress: show how far the encoding is.

    Raises:
        DataError: for data that is missing, or whose size shows that it is damaged.
        ConfigError: for weights or tokenizers that do not fit.
    """
    how: dict[str, Any] = {"tokenizer": tokenizer, "vocabulary": vocabulary, "progress": progress}
    if isinstance(data, list):
        return open_mixture(data, **how)
    return open_dataset(None if data is None else Path(data), **how)


def verify_data(dataset: Dataset, backend: Backend, quiet: bool) -> None:
    """Compare all shards with their checksums; the processes share them out, and where one finds damage, all fail.

    They go in rounds of one shard each, so that none waits long for the others, nor for the end of the data to fail.
    """
    checksums, rank, ranks = dataset.checksums, backend.processes.rank, backend.processes.ranks
    mine = sum(each.size() for each in checksums[rank::ranks])
    with ByteProgress("verifying the data", mine, quiet) as progress:
        for number in range(rank, len(checksums) + rank, ranks):  # as many rounds on every rank
            with backend.processes.all_or_none():
                if number < len(checksums):
                    checksums[number].verify(progress.add)


def has_text(data: Data) -> bool:
    """Whether any of a run's data is raw text."""
    return data is None or any(map(is_text, _paths(data)))


def check_data_is_there(run: Path, data: Data) -> None:
    """Raise `DataError` where a path or pattern of a run's data is no longer where it was."""
    for path in _paths(data):
        if not path.exists() and not glob.glob(str(path), recursive=True):  # noqa: PTH207 it may be absolute
            raise DataError(
                f"the data of {run} is not in {path} any more; where it has moved, say so: gpt2spec train DATA --out "
                f"{shlex.quote(str(run))} --resume"
            )


def vocabulary_of_token_files(tokenizer: Tokenizer, named: bool, vocab_size: object) -> Vocabulary | None:
    """The vocabulary of token files without a manifest: that of the tokenizer if it was `named`, or an unknown one.

    None is GPT-2's. A `vocab_size` of the model below GPT-2's says that the ids are others; one above is padding.
    """
    if named:
        return Vocabulary(tokenizer.id, tokenizer.vocab_size)
    if isinstance(vocab_size, int) and 0 < vocab_size < VOCAB_SIZE:
        return Vocabulary(UNKNOWN, vocab_size)
    return None


def _paths(data: Data) -> list[Path]:
    if isinstance(data, list):
        return [path_and_weight(each)[0] for each in data]
    return [] if data is None else [Path(data)]
