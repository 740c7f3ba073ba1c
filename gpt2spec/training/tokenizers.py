"""Which tokenizer a run has, and its copy in the run directory."""

from pathlib import Path

from gpt2spec.checkpoints.reader import CheckpointReader
from gpt2spec.checkpoints.tokenizers import tokenizer_of
from gpt2spec.data.dataset import Dataset
from gpt2spec.errors import ConfigError
from gpt2spec.files import atomic_folder
from gpt2spec.tokenizer import (
    UNKNOWN,
    Tokenizer,
    comes_along,
    find_tokenizer,
    read_tokenizer,
    recorded_tokenizer,
    write_tokenizer,
)
from gpt2spec.tokenizer.saved import FOLDER, MERGES
from gpt2spec.training.data import has_text
from gpt2spec.training.settings import RunSettings


def encoding_tokenizer(settings: RunSettings, run: Path | None, initial: CheckpointReader | None) -> Tokenizer:
    """Who encodes raw text: a resumed run's own where it has one; or that in the settings, or of the first weights."""
    if run is not None and (run / FOLDER / MERGES).is_file():
        return read_tokenizer(run / FOLDER)
    if settings.tokenizer is None and initial is not None and has_text(settings):
        return tokenizer_of(initial)
    return find_tokenizer(settings.tokenizer_name())


def decoding_tokenizer(dataset: Dataset, encoding: Tokenizer) -> Tokenizer | None:
    """The tokenizer of the data's ids; None for token files that do not say whose they are."""
    if dataset.tokenizer_id == encoding.id:
        return encoding
    if dataset.tokenizer_id == UNKNOWN:
        return None
    return recorded_tokenizer(dataset.tokenizer_id, dataset.folder)


def check_same_tokenizer(settings: RunSettings, encoding: Tokenizer, dataset: Dataset) -> None:
    """Raise where a tokenizer was asked for by name and the data has another."""
    if settings.tokenizer is not None and encoding.id != dataset.tokenizer_id:
        raise ConfigError(f"{dataset.name} was prepared with {dataset.tokenizer_id}, not with {settings.tokenizer!r}")


def keep_tokenizer(run: Path, tokenizer: Tokenizer | None) -> None:
    """Copy a tokenizer that does not come with gpt2spec into a new run directory."""
    if tokenizer is None or comes_along(tokenizer.id):
        return
    with atomic_folder(run / FOLDER, replace=True) as folder:
        write_tokenizer(folder, tokenizer)
