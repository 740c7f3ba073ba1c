"""Token shards: llm.c's `.bin` files, version 1, and the tokens of a split read through them.

A shard is 256 little-endian int32 (20240520, 1, number of tokens, zeros), then one uint16 for each token.

Source: `dev/data/data_common.py` and `llmc/dataloader.h` of github.com/karpathy/llm.c.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gpt2spec.errors import DataError, InputError
from gpt2spec.files import atomic_write

MAGIC = 20240520
VERSION = 1
HEADER_BYTES = 256 * 4
MAX_VOCAB_SIZE = 2**16
"""Token ids are uint16."""
MAX_SHARD_TOKENS = 2**31 - 1
"""The number of tokens is an int32."""

_BLOCK = 1 << 20


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of one split, left on disk until they are read.

    Attributes:
        shards: one read-only uint16 array for each shard, in order.
        vocab_size: ids run from 0 to `vocab_size - 1`; they are checked when batches are made.
    """

    shards: tuple[np.ndarray, ...]
    vocab_size: int

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

    def blocks(self) -> Iterator[np.ndarray]:
        """All tokens in order, as arrays of at most 2^20."""
        return (shard[i : i + _BLOCK] for shard in self.shards for i in range(0, len(shard), _BLOCK))


def header(count: int) -> bytes:
    """The 1024 bytes before `count` tokens."""
    values = np.zeros(256, "<i4")
    values[:3] = MAGIC, VERSION, count
    return values.tobytes()


def token_bytes(tokens: Sequence[int] | np.ndarray) -> bytes:
    """Tokens as little-endian uint16; an id that does not fit is an `InputError`."""
    array = np.asarray(tokens)
    if array.size and not 0 <= array.min() <= array.max() < MAX_VOCAB_SIZE:
        worst = array.min() if array.min() < 0 else array.max()
        raise InputError(f"a shard holds token ids from 0 to {MAX_VOCAB_SIZE - 1}, not {worst}")
    return array.astype("<u2").tobytes()


def write_shard(path: Path, tokens: Sequence[int] | np.ndarray) -> None:
    """Write one shard, whole or not at all (`StorageError`)."""
    with atomic_write(path) as file:
        file.write(header(len(tokens)))
        file.write(token_bytes(tokens))


def read_shard(path: Path) -> np.ndarray:
    """The tokens of a shard as a read-only uint16 array [n], mapped into memory.

    Raises `DataError` for a file that cannot be read, is no shard, is of another version, or whose size is not
    what its header says.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(HEADER_BYTES)
    except OSError as error:
        raise DataError(f"cannot read the shard {path}: {error.strerror or error}") from error
    if len(start) < HEADER_BYTES:
        raise DataError(f"{path} is no token shard: it has {size} bytes, less than a header of {HEADER_BYTES}")
    magic, version, count = (int(value) for value in np.frombuffer(start, "<i4", 3))
    if magic != MAGIC:
        raise DataError(f"{path} is no token shard: it starts with {magic}, a shard with {MAGIC}")
    if version != VERSION:
        raise DataError(f"the shard {path} has version {version}; only version {VERSION} can be read")
    expected = HEADER_BYTES + 2 * count
    if count < 0 or size != expected:
        raise DataError(
            f"the shard {path} is damaged: {count} tokens are {expected} bytes, but it has {size}; prepare it again"
        )
    if count == 0:  # an empty part of a file cannot be mapped
        return np.empty(0, "<u2")
    # A plain view: slicing a `memmap` costs several times what slicing an array does.
    return np.asarray(np.memmap(path, "<u2", mode="r", offset=HEADER_BYTES, shape=(count,)))


class ShardWriter:
    """Writes a stream of tokens as `train_000000.bin`, `train_000001.bin`, …

    The files are not synced: this is for a folder that is synced and renamed as a whole.
    """

    def __init__(self, folder: Path, split: str, shard_tokens: int) -> None:
        """Shards of `split` in `folder`, each but the last of exactly `shard_tokens` tokens."""
        self.paths: list[Path] = []
        self._folder, self._split, self._shard_tokens = folder, split, shard_tokens
        self._file: BinaryIO | None = None
        self._count = 0

    def write(self, tokens: Sequence[int] | np.ndarray) -> None:
        """Append tokens [n], starting new shards where one is full."""
        while len(tokens):
            if self._file is None or self._count == self._shard_tokens:
                self._file = self._begin()
            part = tokens[: self._shard_tokens - self._count]
            self._file.write(token_bytes(part))
            self._count += len(part)
            tokens = tokens[len(part) :]

    def close(self) -> None:
        """Finish the current shard: its header is written now that the number of tokens is known."""
        if self._file is not None:
            with self._file as file:
                file.seek(0)
                file.write(header(self._count))
            self._file = None

    def _begin(self) -> BinaryIO:
        self.close()
        self._count = 0
        self.paths.append(self._folder / f"{self._split}_{len(self.paths):06d}.bin")
        file = self.paths[-1].open("wb")
        file.write(header(0))
        return file
