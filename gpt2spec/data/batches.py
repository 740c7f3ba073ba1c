"""Windows of tokens, in a shuffled order that is known from a single number.

A window is T + 1 tokens: T inputs and, one further on, their T targets. Window w of a shard starts at token w T,
so that no token is a target twice in an epoch and no window spans two shards. The last tokens of a shard, fewer than T
of them, are not used.
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
"""A corpus of more tokens than this, one gigabyte, may be larger than what the system keeps in memory."""

Batch = tuple[np.ndarray, np.ndarray]
"""Inputs and targets, both int32 [B, T]."""


class Batches:
    """The training batches of a corpus. To resume, one integer is enough: how many windows came before.

    Every epoch visits each window once, in an order of its own. In a mixture, each data set has its own epochs. When
    several processes train one model, each takes its own rows of every batch, so the global batch does not depend on
    the number of processes.

    Attributes:
        windows: the number of windows in an epoch.
    """

    def __init__(
        self, tokens: Tokens, batch_size: int, context: int, seed: int, *, rank: int = 0, ranks: int = 1
    ) -> None:
        """Make batches of B = `batch_size` windows of `context` inputs, shuffled by `seed`.

        Process `rank` of `ranks` is given rows `rank * B / ranks` to `(rank + 1) * B / ranks` of every batch.

        Raises:
            DataError: where the corpus has not a single window.
            ConfigError: for sizes below 1, negative seeds, and a batch size that is no multiple of `ranks`.
        """
        _check_sizes(batch_size, context)
        stream_key(seed, "data order")  # refuses a wrong seed now rather than at the first batch
        datasets = tokens.datasets if isinstance(tokens, MixedTokens) else (tokens,)
        for dataset in datasets:
            _check_length(dataset, context)
        self._sets = [_Windows(dataset, context) for dataset in datasets]
        self._rows, self._seed = rows_of_rank(batch_size, rank, ranks), seed
        self.windows = sum(each.count for each in self._sets)
        self._share: np.ndarray | None = None
        if isinstance(tokens, MixedTokens):
            self._share = shares(tokens.weights or [each.count for each in self._sets], PERIOD)

    def at(self, first: int) -> Batch:
        """The batch that begins with window `first`: inputs and targets, int32 [B / ranks, T].

        Row r of the global batch is window `first + r` of the endless sequence of epochs; `first` is the same on every
        rank. In a mixture, `mixture.scheduled` chooses the window. A token outside the vocabulary is an `InputError`.
        """
        if first < 0:
            raise ConfigError(f"a position is a number of windows of at least 0, not {first}")
        if self._share is None:
            (windows,) = self._sets
            return windows.batch(in_order(first + self._rows, windows.count, self._seed))
        sets, places = scheduled(first + self._rows, self._share, self._seed)
        rows: list[np.ndarray] = [np.empty(0)] * len(sets)
        for number, windows in enumerate(self._sets):
            (mine,) = np.nonzero(sets == number)
            for row, window in zip(mine, in_order(places[mine], windows.count, self._seed, number), strict=True):
                rows[row] = windows.row(int(window))
        return self._sets[0].checked(rows)


def rows_of_rank(batch_size: int, rank: int, ranks: int) -> np.ndarray:
    """The rows of a batch that process `rank` of `ranks` computes: [B / ranks], in order."""
    if not 0 <= rank < ranks:
        raise ConfigError(f"ranks are numbered from 0; there is no rank {rank} of {ranks}")
    if batch_size % ranks:
        raise ConfigError(
            f"{ranks} processes cannot share batches of {batch_size} windows; choose a multiple of {ranks}"
        )
    share = batch_size // ranks
    return np.arange(rank * share, (rank + 1) * share)


def validation_batches(tokens: Tokens, batch_size: int, context: int, limit: int | None = None) -> Iterator[Batch]:
    """The first windows of a split, at most `limit`, in order and as batches; the last batch may have fewer rows.

    A split too short for one window gives one shorter window. A `DataError` is raised at once, not at the first batch,
    where no shard has two tokens.
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
    """Ask the system not to read ahead in a mapped shard: some systems read megabytes for a window of two kilobytes."""
    mapped: object = shard
    while isinstance(mapped, np.ndarray):
        mapped = mapped.base
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
        mapped.madvise(mmap.MADV_RANDOM)


class _Windows:
    """The windows of all shards, numbered consecutively."""

    def __init__(self, tokens: Tokens, context: int) -> None:
        self._tokens, self._context = tokens, context
        counts = [max(0, (len(shard) - 1) // context) for shard in tokens.shards]
        self._ends = np.cumsum(counts, dtype=np.int64)
        self.count = sum(counts)
        if len(tokens) > LARGE_TOKENS:
            for shard in tokens.shards:
                _expect_jumps(shard)

    def batch(self, numbers: np.ndarray) -> Batch:
        """Inputs and targets of the windows with the given numbers [B], checked against the vocabulary."""
        return self.checked([self.row(int(number)) for number in numbers])

    def checked(self, windows: Sequence[np.ndarray]) -> Batch:
        """Inputs and targets of windows that have T + 1 tokens each, checked against the vocabulary."""
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
    """The first windows of every data set, as many of each as its share; sets with no validation split are left out."""
    pairs = zip(tokens.datasets, tokens.weights or map(len, tokens.datasets), strict=True)
    chosen = [(dataset, weight) for dataset, weight in pairs if any(len(shard) > 1 for shard in dataset.shards)]
    if not chosen:
        raise DataError("no set of the mixture has a validation split of two tokens; prepare one with it")
    weights = [weight for _, weight in chosen]
    limits = [None] * len(chosen) if limit is None else shares(weights, max(limit, len(chosen))).tolist()
    each = [validation_batches(dataset, batch_size, context, n) for (dataset, _), n in zip(chosen, limits, strict=True)]
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
