"""This module finds the tokenizer of a checkpoint, and makes the record of it for a copy."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from gpt2spec.checkpoints.reader import CheckpointReader
from gpt2spec.config import BYTE_VOCAB_SIZE, VOCAB_SIZE
from gpt2spec.errors import CheckpointError, ConfigError
from gpt2spec.tokenizer import (
    UNKNOWN,
    Tokenizer,
    byte_tokenizer,
    find_tokenizer,
    gpt2_tokenizer,
    holds_tokenizer,
    read_tokenizer,
    recorded_tokenizer,
)
from gpt2spec.tokenizer.saved import READABLE, added_beside

PADDED_VOCAB_SIZE = 50304
"""GPT-2's vocabulary padded to a multiple of 64, as nanoGPT has it when it trains from scratch."""
OTHER = "other"
"""The beginning of the ids of tokenizers that are not of GPT-2's kind."""


class TokenizerRecord(NamedTuple):
    """A model's tokenizer as it is recorded in a file: its `id`, and the tokenizer or the reason why it is absent."""

    id: str
    tokenizer: Tokenizer | None
    absence: str = ""


def tokenizer_of(reader: CheckpointReader, named: str | None = None) -> Tokenizer:
    """The tokenizer that a checkpoint records, or else the one `named`, or else the one with its vocabulary's size.

    Args:
        reader: from `open_checkpoint`.
        named: the name or folder of the tokenizer (see `find_tokenizer`), for a checkpoint that does not record it.

    Raises:
        ConfigError: for a tokenizer that is missing, damaged, or of another kind than GPT-2's.
        CheckpointError: where it is not known, another one was recorded, or it has more entries than the model.
    """
    another_kind = reader.tokenizer is not None and reader.tokenizer.startswith(OTHER)
    if named is not None and not another_kind:
        tokenizer: Tokenizer | None = find_tokenizer(named)
    else:
        tokenizer = _recorded(reader) or tokenizer_of_size(reader)
    if tokenizer is None:
        raise CheckpointError(
            f"{reader.path} does not say which tokenizer it was trained with, and none that comes with gpt2spec has "
            f"{reader.config.vocab_size} tokens: name it with --tokenizer"
        )
    if reader.tokenizer not in (None, UNKNOWN, tokenizer.id):
        raise CheckpointError(
            f"{reader.path} was trained with the tokenizer {reader.tokenizer}, not with {named}, which is "
            f"{tokenizer.id}"
        )
    if tokenizer.vocab_size > reader.config.vocab_size:
        raise CheckpointError(
            f"the model in {reader.path} has {reader.config.vocab_size} tokens, too few for its tokenizer "
            f"{tokenizer.id}, which has {tokenizer.vocab_size}"
        )
    return tokenizer


def tokenizer_of_size(reader: CheckpointReader) -> Tokenizer | None:
    """The tokenizer of gpt2spec with the model's number of entries, unless the checkpoint says that it is unknown."""
    if reader.tokenizer == UNKNOWN:
        return None
    if reader.config.vocab_size == BYTE_VOCAB_SIZE:
        return byte_tokenizer()
    return gpt2_tokenizer() if reader.config.vocab_size in (VOCAB_SIZE, PADDED_VOCAB_SIZE) else None


def with_tokenizer(reader: CheckpointReader, named: str) -> CheckpointReader:
    """The checkpoint as if it held the tokenizer `named`. Errors are those of `tokenizer_of`."""
    tokenizer = tokenizer_of(reader, named)
    return replace(reader, tokenizer=tokenizer.id, merges=tokenizer.merges.decode("utf-8"))


def record_of(reader: CheckpointReader) -> TokenizerRecord | None:
    """The tokenizer's record for a copy of a checkpoint, or None where the checkpoint does not record it.

    The record has only the `id` where the tokenizer is absent or not of GPT-2's kind. A damaged tokenizer is a
    `ConfigError`.
    """
    if reader.tokenizer is None:
        return None
    if reader.tokenizer == UNKNOWN:
        return TokenizerRecord(UNKNOWN, None, "nobody says which it is")
    try:
        return TokenizerRecord(reader.tokenizer, _recorded(reader))
    except ConfigError as error:
        held = reader.merges is not None or holds_tokenizer(reader.path)
        if held and not reader.tokenizer.startswith(OTHER):
            raise
        return TokenizerRecord(reader.tokenizer, None, str(error))


def tokenizer_in(folder: Path) -> str | None:
    """The `id` of the tokenizer in a Hugging Face folder; None where there is none.

    Weights can be read whatever the tokenizer is. If it is damaged or not of GPT-2's kind, the id is one that no
    tokenizer has, so that it is not mistaken for another; `tokenizer_of` says what is wrong with it.
    """
    try:
        if holds_tokenizer(folder):
            return read_tokenizer(folder).id
        added_beside(folder, any_class=False)  # a tokenizer of another class may have files of other names
        return None
    except ConfigError:
        contents = [(folder / name).read_bytes() for name in sorted(READABLE) if (folder / name).is_file()]
        return f"{OTHER}-{hashlib.sha256(b''.join(contents)).hexdigest()[:16]}"


def _recorded(reader: CheckpointReader) -> Tokenizer | None:
    """The tokenizer that a checkpoint records; a `ConfigError` says why it cannot be used."""
    if reader.tokenizer is None or reader.tokenizer == UNKNOWN:
        return None
    if reader.tokenizer.startswith(OTHER) and reader.path.is_dir():
        read_tokenizer(reader.path)  # raises, saying what is wrong
    return recorded_tokenizer(reader.tokenizer, reader.path, reader.merges)
