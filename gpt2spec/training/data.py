"""The data that a run's settings name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpt2spec.config import VOCAB_SIZE
from gpt2spec.data.dataset import Dataset, open_dataset
from gpt2spec.data.mixed_dataset import open_mixture
from gpt2spec.data.token_files import UNKNOWN, Vocabulary
from gpt2spec.tokenizer import Tokenizer
from gpt2spec.training.settings import RunSettings

VERIFIED_TOKENS = 500_000_000
"""Data of up to so many tokens, a gigabyte, is hashed before it is used; for more, there is `data info`."""


def open_data(settings: RunSettings, tokenizer: Tokenizer, progress: bool) -> Dataset:
    """The data of a run, its checksums verified where that takes seconds; `tokenizer` encodes raw text.

    Raises:
        DataError: for data that is missing or damaged.
        ConfigError: for weights or tokenizers that do not fit.
    """
    how: dict[str, Any] = {
        "tokenizer": tokenizer,
        "vocabulary": vocabulary(settings, tokenizer),
        "progress": progress,
    }
    if isinstance(settings.data, list):
        dataset = open_mixture(settings.data, **how)
    else:
        dataset = open_dataset(None if settings.data is None else Path(settings.data), **how)
    if len(dataset.train) + len(dataset.val) <= VERIFIED_TOKENS:
        dataset.verify()
    return dataset


def vocabulary(settings: RunSettings, tokenizer: Tokenizer) -> Vocabulary | None:
    """Whose ids token files without a manifest hold: those of the tokenizer that was named, or unknown ones.

    None is GPT-2's. A `vocab_size` of the model below GPT-2's says that they are others; one above is padding.
    """
    if settings.tokenizer is not None:
        return Vocabulary(tokenizer.id, tokenizer.vocab_size)
    size = settings.model.get("vocab_size", VOCAB_SIZE)
    return Vocabulary(UNKNOWN, size) if isinstance(size, int) and 0 < size < VOCAB_SIZE else None
