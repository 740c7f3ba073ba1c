"""Windows of tokens, in a shuffled order that is known from a single number.

A window is T + 1 tokens: T inputs and, one further on, their T targets. Window w of a shard starts at token w T,
so that no token is a target twice in an epoch, and no window spans two shards; the less than T tokens that are left
at the end of a shard are not used.
"""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Iterator, Sequence

import numpy as np

from gpt2spec.data.mixture import PERIOD, MixedTokens, scheduled, shares
from gpt2spec.data.permutation import in_order
from gpt2spec.data.shards import Tokens
from gpt2spec.errors import ConfigError, DataError, InputError
from gpt2spec.random import stream_key

LARGE_TOKENS = 500_000_000
"""A corpus of more tokens, a gigabyte, may be larger than what the system keeps in memory."""

Batch = tuple[np.ndarray, np.ndarray]
"""Inputs and targets, both int32 [B, T]."""


class Batches:
    """The training batches of a corpus, by position: nothing needs to be kept to resume but one integer.

    Every epoch visits each window once, in an order of its own; of a mixture, each set has its own epochs. Several
    processes that train one model have the same batches, and each takes its own rows of them: the global batch is the
    same however many they are.

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
        parts = tokens.parts if isinstance(tokens, MixedTokens) else (tokens,)
        for part in parts:
            _check_length(part, context)
        self._sets = [_Windows(part, context) for part in parts]
        self._rows, self._seed = rows_of_rank(batch_size, rank, ranks), seed
        self.windows = sum(each.count for each in self._sets)
        self._share: np.ndarray | None = None
        if isinstance(tokens, MixedTokens):
            self._share = shares(tokens.weights or [each.count for each in self._sets], PERIOD)

    def at(self, position: int) -> Batch:
        """The batch after `position` windows: inputs and targets, int32 [B / ranks, T].

        Row r of the whole batch is window `position + r` of the endless sequence of epochs; `position` is that of the
        whole batch, on every rank. Of a mixture it is the window that `mixture.scheduled` tells. A token outside the
        vocabulary is an `InputError`.
        """
        if position < 0:
            raise ConfigError(f"a position is a number of windows of at least 0, not {position}")
        if self._share is None:
            (windows,) = self._sets
            return windows.batch(in_order(position + self._rows, windows.count, self._seed))
        sets, places = scheduled(position + self._rows, self._share, self._seed)
        rows: list[np.ndarray] = [np.empty(0)] * len(sets)
        for number, windows in enumerate(self._sets):
            (mine,) = np.nonzero(sets == number)
            for row, window in zip(mine, in_order(places[mine], windows.count, self._seed, number), strict=True):
                rows[row] = windows.row(int(window))
        return self._sets[0].checked(rows)


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


def validation_batches(tokens: Tokens, batch_size: int, context: int, limit: int | None = None) -> Iterator[Batch]:
    """The first windows of a split in order, at most `limit`, as batches; the last may have fewer rows.

    A split too short for one window gives one shorter window. Fewer than two tokens in every shard is a
    `DataError`, at once and not at the first batch.
    """
    _check_sizes(batch_size, context)
    if limit is not None and limit < 1:
        raise ConfigError(f"the number of validation windows is at least 1, not {limit}")
    if isinstance(tokens, MixedTokens):
        return _mixed_validation(tokens, batch_size, context, limit)
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


def _expect_jumps(shard: np.ndarray) -> None:
    """Tell the system not to read on behind the windows of a mapped shard: megabytes, on some, for two kilobytes."""
    mapped: object = shard
    while isinstance(mapped, np.ndarray):
        mapped = mapped.base
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
        mapped.madvise(mmap.MADV_RANDOM)


class _Windows:
    """The windows of all shards, numbered through."""

    def __init__(self, tokens: Tokens, context: int) -> None:
        self._tokens, self._context = tokens, context
        counts = [max(0, (len(shard) - 1) // context) for shard in tokens.shards]
        self._ends = np.cumsum(counts, dtype=np.int64)
        self.count = sum(counts)
        if len(tokens) > LARGE_TOKENS:
            for shard in tokens.shards:
                _expect_jumps(shard)

    def batch(self, numbers: np.ndarray) -> Batch:
        """Inputs and targets of the windows with some numbers [B], checked against the vocabulary."""
        return self.checked([self.row(int(number)) for number in numbers])

    def checked(self, windows: Sequence[np.ndarray]) -> Batch:
        """Inputs and targets of some windows, each of T + 1 tokens."""
        rows = np.stack(windows).astype(np.int32)  # [B, T + 1]
        highest = int(rows.max())
        if highest >= self._tokens.vocab_size:
            raise InputError(
                f"the data has the token {highest}, but ids run from 0 to {self._tokens.vocab_size - 1}; the shards "
                "were made for another vocabulary or are damaged"
            )
        return np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])

    def row(self, number: int) -> np.ndarray:
        """The T + 1 tokens of a window."""
        shard = int(np.searchsorted(self._ends, number, side="right"))
        first = int(self._ends[shard - 1]) if shard else 0
        start = (number - first) * self._context
        return self._tokens.shards[shard][start : start + self._context + 1]


def _mixed_validation(tokens: MixedTokens, batch_size: int, context: int, limit: int | None) -> Iterator[Batch]:
    """The first windows of every set, of each as many as its share; sets without a validation split are left out."""
    pairs = zip(tokens.parts, tokens.weights or map(len, tokens.parts), strict=True)
    chosen = [(part, weight) for part, weight in pairs if any(len(shard) > 1 for shard in part.shards)]
    if not chosen:
        raise DataError("no set of the mixture has a validation split of two tokens; prepare one with it")
    weights = [weight for _, weight in chosen]
    limits = [None] * len(chosen) if limit is None else shares(weights, max(limit, len(chosen))).tolist()
    each = [validation_batches(part, batch_size, context, n) for (part, _), n in zip(chosen, limits, strict=True)]
    return itertools.chain.from_iterable(each)


def _check_length(tokens: Tokens, context: int) -> None:
    longest = max(map(len, tokens.shards), default=0)
    if longest <= context:
        raise DataError(
            f"the training split has {len(tokens)} tokens ({longest} in its longest shard), but a window of "
            f"context {context} takes {context + 1}; use a smaller context or more text"
        )


def _check_sizes(batch_size: int, context: int) -> None:
    if batch_size < 1 or context < 1:
        raise ConfigError(f"batch size and context are at least 1, not {batch_size} and {context}")
