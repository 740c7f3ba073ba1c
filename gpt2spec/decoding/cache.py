"""This module holds rows of tokens that grow, with the keys and values of the tokens that were read.

Prompts are read in one pass, padded on the right. Padding comes after all positions that a row attends to, and it is
overwritten when the row grows. So rows of different lengths do not affect each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from gpt2spec.backend import Backend
from gpt2spec.config import GPT2Config
from gpt2spec.model import Past, cached_forward, empty_cache
from gpt2spec.ops import Tensor
from gpt2spec.tree import Tree

BUCKET = 64
"""Attention reads a multiple of so many positions of the cache, so that compilers see few shapes."""


class Rows:
    """Rows of tokens that a model has read on a device.

    Attributes:
        lengths: how many tokens of each row were read, int32 [B].
        logits: the logits of the next token in each row, [B, V], on the device.
    """

    def __init__(
        self, backend: Backend, config: GPT2Config, params: Tree, rows: Sequence[Sequence[int]], capacity: int
    ) -> None:
        """Read `rows` in one pass. `params` are the backend's `decoding_params`.

        Rows may grow to `capacity` tokens, which is at most `config.n_ctx`. No row may be empty.
        """
        self.backend, self.config, self.params = backend, config, params
        self.lengths = np.array([len(row) for row in rows], np.int32)
        self.capacity = _buckets(capacity)
        width = min(_width(int(self.lengths.max())), config.n_ctx)
        tokens = np.zeros((len(rows), width), np.int32)
        for padded, row in zip(tokens, rows, strict=True):
            padded[: len(row)] = row
        cache = empty_cache(backend.ops, config, len(rows), self.capacity)
        read = _reader(backend, config, width)
        self.cache, self.logits = read(cache, params, backend.put(tokens), backend.put(self.lengths - 1))

    def append(self, tokens: Tensor) -> None:
        """Read one more token in each row: int32 [B], on the device."""
        seen = min(_buckets(int(self.lengths.max()) + 1), self.capacity)
        read = _appender(self.backend, self.config, seen)
        self.cache, self.logits = read(self.cache, self.params, tokens, self.backend.put(self.lengths))
        self.lengths = self.lengths + 1

    def select(self, indices: Sequence[int] | np.ndarray) -> None:
        """Replace row i by the former row `indices[i]`; there may be more or fewer rows than before."""
        index = np.asarray(indices, np.int32)
        if np.array_equal(index, np.arange(len(self.lengths))):
            return
        self.cache, self.logits = _selector(self.backend)(self.cache, self.logits, self.backend.put(index))
        self.lengths = self.lengths[index]


def _buckets(length: int) -> int:
    return -(-length // BUCKET) * BUCKET


def _width(length: int) -> int:
    """The padded width of a pass over prompts: whole buckets, or a power of two for short prompts, which are common."""
    return max(8, 1 << (length - 1).bit_length()) if length <= BUCKET else _buckets(length)


@lru_cache(maxsize=64)
def _reader(backend: Backend, config: GPT2Config, width: int) -> Callable[..., tuple[list[Tree], Tensor]]:
    """A compiled pass over new rows: (cache, params, tokens [B, width], last) -> cache, logits [B, V] after `last`."""

    def read(cache: list[Tree], params: Tree, tokens: Tensor, last: Tensor) -> tuple[list[Tree], Tensor]:
        return cached_forward(backend.ops, config, params, Past(cache, None, width), tokens, last)

    return backend.jit_update(read)


@lru_cache(maxsize=64)
def _appender(backend: Backend, config: GPT2Config, length: int) -> Callable[..., tuple[list[Tree], Tensor]]:
    """A compiled pass over one more token: (cache, params, tokens [B], start) -> cache, logits [B, V]."""

    def append(cache: list[Tree], params: Tree, tokens: Tensor, start: Tensor) -> tuple[list[Tree], Tensor]:
        tokens = backend.ops.reshape(tokens, (-1, 1))
        cache, logits = cached_forward(backend.ops, config, params, Past(cache, start, length), tokens)
        return cache, logits[:, 0]  # [B, 1, V] -> [B, V]

    return backend.jit_step(append)


@lru_cache(maxsize=16)
def _selector(backend: Backend) -> Callable[..., tuple[list[Tree], Tensor]]:
    ops = backend.ops
    return backend.jit(lambda cache, logits, rows: (ops.select_rows(cache, rows), ops.take(logits, rows, 0)))
