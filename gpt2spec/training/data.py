"""The data that a run's settings name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpt2spec.backend import Backend
from gpt2spec.byte_progress import ByteProgress
from gpt2spec.config import VOCAB_SIZE
from gpt2spec.data.dataset import Dataset, is_text, open_dataset
from gpt2spec.data.mixed_dataset import open_mixture, path_and_weight
from gpt2spec.data.token_files import Vocabulary
from gpt2spec.tokenizer import UNKNOWN, Tokenizer
from gpt2spec.training.settings import RunSettings


def open_data(settings: RunSettings, tokenizer: Tokenizer, progress: bool) -> Dataset:
    """The data of a run; `tokenizer` encodes raw text.

    Raises:
        DataError: for data that is missing, or whose size shows that it is damaged.
        ConfigError: for weights or tokenizers that do not fit.
    """
    how: dict[str, Any] = {
        "tokenizer": tokenizer,
        "vocabulary": vocabulary(settings, tokenizer),
        "progress": progress,
    }
    if isinstance(settings.data, list):
        return open_mixture(settings.data, **how)
    return open_dataset(None if settings.data is None else Path(settings.data), **how)


def verify_data(dataset: Dataset, backend: Backend, quiet: bool) -> None:
    """Compare all shards with their checksums; several processes share them out, and where one finds damage, all fail.

    They go in rounds of one shard each, so that none waits long for the others, nor for the end of the data to fail.
    """
    checksums, rank, ranks = dataset.checksums, backend.processes.rank, backend.processes.ranks
    mine = sum(each.size() for each in checksums[rank::ranks])
    with ByteProgress("verifying the data", mine, quiet) as progress:
        for number in range(rank, len(checksums) + rank, ranks):  # as many rounds on every rank
            with backend.processes.all_or_none():
                if number < len(checksums):
                    checksums[number].verify(progress.add)


def has_text(settings: RunSettings) -> bool:
    """Whether any of a run's data is raw text."""
    if isinstance(settings.data, list):
        return any(is_text(path_and_weight(each)[0]) for each in settings.data)
    return is_text(None if settings.data is None else Path(settings.data))


def vocabulary(settings: RunSettings, tokenizer: Tokenizer) -> Vocabulary | None:
    """Whose ids token files without a manifest hold: those of the tokenizer that was named, or unknown ones.

    None is GPT-2's. A `vocab_size` of the model below GPT-2's says that they are others; one above is padding.
    """
    if settings.tokenizer is not None:
        return Vocabulary(tokenizer.id, tokenizer.vocab_size)
    size = settings.model.get("vocab_size", VOCAB_SIZE)
    return Vocabulary(UNKNOWN, size) if isinstance(size, int) and 0 < size < VOCAB_SIZE else None
