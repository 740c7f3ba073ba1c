"""Windows of tokens, in a shuffled order that is known from a single number.

A window is T + 1 tokens: T inputs and, one further on, their T targets. Window w of a shard starts at token w T,
so that no token is a target twice in an epoch, and no window spans two shards; the less than T tokens that are left
at the end of a shard are not used.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpt2spec.data.shards import Tokens
from gpt2spec.errors import ConfigError, DataError, InputError
from gpt2spec.random import stream_key

Batch = tuple[np.ndarray, np.ndarray]
"""Inputs and targets, both int32 [B, T]."""


class Batches:
    """The training batches of a corpus, by position: nothing needs to be kept to resume but one integer.

    Every epoch visits each window once, in an order of its own. Several processes that train one model have the same
    batches, and each takes its own rows of them: the global batch is the same however many they are.

    Attributes:
        windows: windows in an epoch.
    """

    def __init__(
        self, tokens: Tokens, batch_size: int, context: int, seed: int, *, rank: int = 0, ranks: int = 1
    ) -> None:
        """Batches of `batch_size` windows of `context` inputs, shuffled by `seed`.

        Of every batch, process `rank` of `ranks` is given rows `rank * B / ranks` to `(rank + 1) * B / ranks`.

        A corpus without a single window is a `DataError`; sizes below 1, negative seeds, and a batch that does not
        divide by the number of processes are a `ConfigError`.
        """
        _check_sizes(batch_size, context)
        stream_key(seed, "data order")  # refuses a wrong seed now rather than at the first batch
        self._windows = _Windows(tokens, context)
        self._rows, self._seed = rows_of_rank(batch_size, rank, ranks), seed
        self.windows = self._windows.count
        if self.windows == 0:
            longest = max(map(len, tokens.shards), default=0)
            raise DataError(
                f"the training split has {len(tokens)} tokens ({longest} in its longest shard), but a window of "
                f"context {context} takes {context + 1}; use a smaller context or more text"
            )

    def at(self, position: int) -> Batch:
        """The batch after `position` windows: inputs and targets, int32 [B / ranks, T].

        Row r of the whole batch is window `position + r` of the endless sequence of epochs; `position` is that of the
        whole batch, on every rank. A token outside the vocabulary is an `InputError`.
        """
        if position < 0:
            raise ConfigError(f"a position is a number of windows of at least 0, not {position}")
        return self._windows.batch(in_order(position + self._rows, self.windows, self._seed))


def rows_of_rank(batch_size: int, rank: int, ranks: int) -> np.ndarray:
    """The rows of a batch that are the part of process `rank` of `ranks`: [B / ranks], in order."""
    if not 0 <= rank < ranks:
        raise ConfigError(f"ranks are numbered from 0; there is no rank {rank} of {ranks}")
    if batch_size % ranks:
        raise ConfigError(
            f"{ranks} processes cannot share batches of {batch_size} windows; choose a multiple of {ranks}"
        )
    share = batch_size // ranks
    return np.arange(rank * share, (rank + 1) * share)


def in_order(positions: np.ndarray, count: int, seed: int, *index: int) -> np.ndarray:
    """Which of `count` windows stand at some positions [B] of the endless sequence of shuffled epochs."""
    epochs, places = np.divmod(positions, count)
    order = np.empty(len(positions), np.int64)
    for epoch in np.unique(epochs):
        rows = epochs == epoch
        order[rows] = permuted(places[rows], count, stream_key(seed, "data order", *index, int(epoch)))
    return order


def validation_batches(tokens: Tokens, batch_size: int, context: int, limit: int | None = None) -> Iterator[Batch]:
    """The first windows of a split in order, at most `limit`, as batches; the last may have fewer rows.

    A split too short for one window gives one shorter window. Fewer than two tokens in every shard is a
    `DataError`, at once and not at the first batch.
    """
    _check_sizes(batch_size, context)
    if limit is not None and limit < 1:
        raise ConfigError(f"the number of validation windows is at least 1, not {limit}")
    longest = max(map(len, tokens.shards), default=0)
    if longest < 2:
        raise DataError(
            f"the validation split has {len(tokens)} tokens, too few to predict one; use a larger validation "
            "fraction or more text"
        )
    windows = _Windows(tokens, min(context, longest - 1))
    count = windows.count if limit is None else min(limit, windows.count)
    starts = range(0, count, batch_size)
    return (windows.batch(np.arange(start, min(start + batch_size, count))) for start in starts)


def permuted(places: np.ndarray, count: int, key: int) -> np.ndarray:
    """Where a pseudo-random permutation of 0 … count - 1, chosen by a 128-bit `key`, takes `places` [B].

    A Feistel network permutes the smallest 2^(2h) numbers that include all of them; what lands outside is sent
    through again until it lands inside ("cycle walking"). So a place is found without the other places: memory
    does not grow with the corpus.

    Source: Black and Rogaway, "Ciphers with Arbitrary Finite Domains" (2002).
    """
    half_bits = max(1, ((count - 1).bit_length() + 1) // 2)
    round_keys = np.random.Philox(key=key).random_raw(_ROUNDS)
    values = places.astype(np.uint64)
    outside = np.ones(len(values), bool)
    while outside.any():
        values[outside] = _feistel(values[outside], half_bits, round_keys)
        outside = values >= count
    return values.astype(np.int64)


_ROUNDS = 10


def _feistel(values: np.ndarray, half_bits: int, round_keys: np.ndarray) -> np.ndarray:
    """One pass of the network over uint64 values of 2 `half_bits` bits: each round, (L, R) -> (R, L ^ F(R))."""
    bits, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & mask
    for round_key in round_keys:
        left, right = right, left ^ (_mixed(right ^ round_key) & mask)
    return (left << bits) | right


def _mixed(x: np.ndarray) -> np.ndarray:
    """SplitMix64's output function: every bit of the result depends on every bit of x, modulo 2^64.

    Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators" (2014).
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class _Windows:
    """The windows of all shards, numbered through."""

    def __init__(self, tokens: Tokens, context: int) -> None:
        self._tokens, self._context = tokens, context
        counts = [max(0, (len(shard) - 1) // context) for shard in tokens.shards]
        self._ends = np.cumsum(counts, dtype=np.int64)
        self.count = sum(counts)

    def batch(self, numbers: np.ndarray) -> Batch:
        """Inputs and targets of the windows with some numbers [B], checked against the vocabulary."""
        rows = np.stack([self._window(int(number)) for number in numbers]).astype(np.int32)  # [B, T + 1]
        highest = int(rows.max())
        if highest >= self._tokens.vocab_size:
            raise InputError(
                f"the data has the token {highest}, but ids run from 0 to {self._tokens.vocab_size - 1}; the shards "
                "were made for another vocabulary or are damaged"
            )
        return np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])

    def _window(self, number: int) -> np.ndarray:
        shard = int(np.searchsorted(self._ends, number, side="right"))
        first = int(self._ends[shard - 1]) if shard else 0
        start = (number - first) * self._context
        return self._tokens.shards[shard][start : start + self._context + 1]


def _check_sizes(batch_size: int, context: int) -> None:
    if batch_size < 1 or context < 1:
        raise ConfigError(f"batch size and context are at least 1, not {batch_size} and {context}")
