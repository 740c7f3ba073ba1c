"""Whom to evaluate: the model and tokenizer of a checkpoint of any format."""

from pathlib import Path

from gpt2spec.checkpoints.opening import open_checkpoint, tokenizer_of
from gpt2spec.config import GPT2Config
from gpt2spec.parameters import HostParams
from gpt2spec.tokenizer import Tokenizer


def load_with_tokenizer(path: Path, step: int | None = None) -> tuple[GPT2Config, HostParams, Tokenizer]:
    """The checkpoint that `path` is or, in a run directory, that of `step` or the last; else a `CheckpointError`."""
    reader = open_checkpoint(path, step)
    tokenizer = tokenizer_of(reader)  # before the weights, which take time
    return reader.config, reader.params(), tokenizer
