"""This module reads and writes token shards, which are llm.c's `.bin` files, version 1.

A shard is 256 little-endian int32 (20240520, 1, number of tokens, zeros), then one uint16 for each token.

Source: `dev/data/data_common.py` and `llmc/dataloader.h` of github.com/karpathy/llm.c.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gpt2spec.data.manifest import ShardEntry
from gpt2spec.errors import DataError, InputError
from gpt2spec.files import atomic_write, data_errors, sha256_of_file, storage_errors

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
    """The tokens of one split, which stay on disk until they are read.

    Attributes:
        shards: one read-only uint16 array for each shard, in order.
        vocab_size: ids run from 0 to `vocab_size - 1`; they are checked when batches are made.
    """

    shards: tuple[np.ndarray, ...]
    vocab_size: int

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

    def blocks(self) -> Iterator[np.ndarray]:
        """All tokens in order, as arrays of at most 2^20 tokens."""
        return (shard[i : i + _BLOCK] for shard in self.shards for i in range(0, len(shard), _BLOCK))

    def between(self, start: int, stop: int) -> np.ndarray:
        """Tokens `start` to `stop`, counted through all shards: [stop - start]."""
        pieces = []
        for shard in self.shards:
            pieces.append(shard[max(0, start) : max(0, stop)])
            start, stop = start - len(shard), stop - len(shard)
        return np.concatenate([np.empty(0, np.uint16), *(piece for piece in pieces if len(piece))])


def header(count: int) -> bytes:
    """The header of a shard of `count` tokens: 1024 bytes."""
    values = np.zeros(256, "<i4")
    values[:3] = MAGIC, VERSION, count
    return values.tobytes()


def token_bytes(tokens: Sequence[int] | np.ndarray) -> bytes:
    """Encode tokens as little-endian uint16; an id that does not fit is an `InputError`."""
    array = np.asarray(tokens)
    if array.dtype != np.uint16 and array.size and not 0 <= array.min() <= array.max() < MAX_VOCAB_SIZE:
        worst = array.min() if array.min() < 0 else array.max()
        raise InputError(f"a shard holds token ids from 0 to {MAX_VOCAB_SIZE - 1}, not {worst}")
    return array.astype("<u2", copy=False).tobytes()


def write_shard(path: Path, tokens: Sequence[int] | np.ndarray) -> None:
    """Write one shard, whole or not at all. Raises `StorageError` where it cannot be written."""
    with atomic_write(path) as file:
        file.write(header(len(tokens)))
        file.write(token_bytes(tokens))


def read_shard(path: Path) -> np.ndarray:
    """Map the tokens of a shard into memory, as a read-only uint16 array [n].

    Raises `DataError` for a file that cannot be read, is no shard, has another version, or whose size does not
    match its header.
    """
    with data_errors(f"the shard {path}"):
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(HEADER_BYTES)
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
    if count == 0:  # an empty range of a file cannot be mapped
        return np.empty(0, "<u2")
    # A plain view: slicing a `memmap` costs several times what slicing an array does.
    return np.asarray(np.memmap(path, "<u2", mode="r", offset=HEADER_BYTES, shape=(count,)))


class ShardWriter:
    """Writes a stream of tokens as `train_000000.bin`, `train_000001.bin`, …

    Attributes:
        finished: the shards that are complete.
        tail: the number of tokens in the unfinished shard.
        counts: how often each token has been written: [V].
    """

    def __init__(self, folder: Path, split: str, shard_tokens: int, vocab_size: int) -> None:
        """Prepare to write shards of `split` into `folder`; each but the last has exactly `shard_tokens` tokens."""
        self.finished: list[ShardEntry] = []
        self.tail = 0
        self.counts = np.zeros(vocab_size, np.int64)
        self._folder, self._split, self._shard_tokens = folder, split, shard_tokens
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._waiting: list[np.ndarray] = []
        self._count_waiting = 0

    def write(self, tokens: np.ndarray) -> None:
        """Append tokens [n], and begin a new shard whenever one is full."""
        self._waiting.append(tokens)
        self._count_waiting += len(tokens)
        if self._count_waiting >= _BLOCK:
            self.flush()

    def flush(self) -> None:
        """Write all tokens to the files."""
        tokens = np.concatenate(self._waiting) if self._waiting else np.empty(0, np.uint16)
        self._waiting, self._count_waiting = [], 0
        while len(tokens):
            path = self._path()
            with storage_errors(path):
                if self._file is None:
                    self._file = path.open("wb")
                    self._digest = hashlib.sha256()
                    self._append(header(self._shard_tokens))
                fitting = tokens[: self._shard_tokens - self.tail]
                self._append(token_bytes(fitting))
                self._file.flush()
            self.counts += count_tokens(Tokens((fitting,), len(self.counts)))
            self.tail += len(fitting)
            tokens = tokens[len(fitting) :]
            if self.tail == self._shard_tokens:
                self._finish()

    def sync(self) -> None:
        """Sync what was written to the disk, before a journal that relies on it."""
        self.flush()
        if self._file is not None:
            with storage_errors(self._path()):
                os.fsync(self._file.fileno())

    @property
    def tail_sha256(self) -> str:
        """SHA-256, in hexadecimal, of the unfinished shard as far as it is written."""
        return self._digest.hexdigest() if self.tail else ""

    def close(self) -> None:
        """Finish the last shard."""
        self.flush()
        if self._file is not None:
            self._finish()

    def abandon(self) -> None:
        """Close the unfinished shard as it is."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def resume(self, finished: Sequence[ShardEntry], tail: int, tail_sha256: str) -> bool:
        """Continue after these shards and the first `tail` tokens of the next; False if they are not there intact."""
        for entry in finished:
            path = self._path()
            if entry.file != path.name or not path.is_file():
                return False
            found, counts = survey_shard(path, len(self.counts))
            if found != entry:
                return False
            self.finished.append(found)
            self.counts += counts
        if tail:
            path = self._path()
            if not path.is_file() or path.stat().st_size < HEADER_BYTES + 2 * tail:
                return False
            self._file = path.open("r+b")
            self._file.truncate(HEADER_BYTES + 2 * tail)
            self._read_tail(self._file)
            self.tail = tail
        return self.tail_sha256 == tail_sha256

    def paths(self) -> list[Path]:
        """The files of all shards, the unfinished one included."""
        names = [shard.file for shard in self.finished]
        return [*(self._folder / name for name in names), *([self._path()] if self.tail else [])]

    def _path(self) -> Path:
        return self._folder / f"{self._split}_{len(self.finished):06d}.bin"

    def _finish(self) -> None:
        """Complete the current shard. The header of the last shard, which may be shorter, is then written again."""
        assert self._file is not None
        path, digest = self._path(), self._digest.hexdigest()
        with storage_errors(path), self._file as file:
            if self.tail < self._shard_tokens:
                file.seek(0)
                file.write(header(self.tail))
                file.flush()
                digest = sha256_of_file(path)
            os.fsync(file.fileno())
        self.finished.append(ShardEntry(path.name, self.tail, digest))
        self._file, self.tail = None, 0

    def _append(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)
        self._digest.update(data)

    def _read_tail(self, file: BinaryIO) -> None:
        """Hash and count the tokens of the unfinished shard, and move to its end."""
        self._digest = hashlib.sha256(file.read(HEADER_BYTES))
        while data := file.read(2 * _BLOCK):
            self._digest.update(data)
            self.counts += count_tokens(Tokens((np.frombuffer(data, "<u2"),), len(self.counts)))


def survey_shard(path: Path, vocab_size: int) -> tuple[ShardEntry, np.ndarray]:
    """The manifest's entry for a shard, and how often each token occurs in the shard: [V]."""
    tokens = Tokens((read_shard(path),), vocab_size)
    return ShardEntry(path.name, len(tokens), sha256_of_file(path)), count_tokens(tokens)


def count_tokens(tokens: Tokens) -> np.ndarray:
    """How often each token occurs: int64 [V]. An id outside the vocabulary is a `DataError`."""
    counts = np.zeros(tokens.vocab_size, np.int64)
    for block in tokens.blocks():
        found = np.bincount(block, minlength=tokens.vocab_size)
        if len(found) > tokens.vocab_size:
            raise DataError(f"there is a token {len(found) - 1}, but ids run from 0 to {tokens.vocab_size - 1}")
        counts += found
    return counts
