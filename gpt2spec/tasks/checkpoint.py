"""Whom to evaluate: the model and tokenizer of a checkpoint of any format."""

from pathlib import Path

from gpt2spec.checkpoints.opening import open_checkpoint
from gpt2spec.checkpoints.tokenizers import tokenizer_of
from gpt2spec.config import GPT2Config
from gpt2spec.parameters import HostParams
from gpt2spec.tokenizer import Tokenizer


def load_with_tokenizer(
    path: Path, step: int | None = None, tokenizer: str | None = None
) -> tuple[GPT2Config, HostParams, Tokenizer]:
    """The checkpoint that `path` is or, in a run directory, that of `step` or the last; else a `CheckpointError`.

    `tokenizer` is the name or folder of its tokenizer, where it does not say it.
    """
    reader = open_checkpoint(path, step)
    found = tokenizer_of(reader, tokenizer)  # before the weights, which take time
    return reader.config, reader.params(), found
