"""This module loads the model and tokenizer of a checkpoint in any format, for evaluation."""

from pathlib import Path

from gpt2spec.checkpoints.opening import open_checkpoint
from gpt2spec.checkpoints.tokenizers import tokenizer_of
from gpt2spec.config import GPT2Config
from gpt2spec.parameters import HostParams
from gpt2spec.tokenizer import Tokenizer


def load_with_tokenizer(
    path: Path, step: int | None = None, tokenizer: str | None = None
) -> tuple[GPT2Config, HostParams, Tokenizer]:
    """Load the checkpoint at `path`; in a run directory, that of `step` or the last one.

    `tokenizer` is the name or folder of its tokenizer, for a checkpoint that does not record it. Raises
    `CheckpointError` where there is no such checkpoint.
    """
    reader = open_checkpoint(path, step)
    found = tokenizer_of(reader, tokenizer)  # first, because loading the weights takes time
    return reader.config, reader.params(), found
