"""Whom to evaluate: the model and tokenizer of a checkpoint."""

from pathlib import Path

from gpt2spec.checkpoints.native import find_checkpoint, load_model, load_progress
from gpt2spec.config import GPT2Config
from gpt2spec.parameters import HostParams
from gpt2spec.tokenizer import Tokenizer, tokenizer_with_id


def load_checkpoint(path: Path, step: int | None = None) -> tuple[GPT2Config, HostParams, Tokenizer]:
    """The checkpoint that `path` is or, in a run directory, that of `step` or the last; else a `CheckpointError`."""
    folder = find_checkpoint(path, step)
    return *load_model(folder), tokenizer_with_id(load_progress(folder).get("tokenizer", "unknown"))
