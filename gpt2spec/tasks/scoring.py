"""This module computes the likelihoods of texts, one forward pass for each batch of rows.

Rows are sorted by length and padded to one of few widths, so that compilers see few shapes. The padding comes after all
positions that are used, so it does not affect them. Logits are computed only where a target is predicted, for some
positions at a time: [B, T, V] never exists.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from gpt2spec.backend import Backend
from gpt2spec.config import GPT2Config
from gpt2spec.device_weights import Weights, on_device
from gpt2spec.errors import InputError
from gpt2spec.metrics.windows import windows
from gpt2spec.model import transformer
from gpt2spec.ops import Tensor
from gpt2spec.tasks.requests import Likelihood, Likely
from gpt2spec.tree import Tree

HEAD_VALUES = 2**26
"""The most logits that are computed at a time, which take 256 MiB in float32."""
HEAD_ROWS = (256, 4096)
"""The fewest and the most positions whose logits are computed at a time."""


class Row(NamedTuple):
    """The tokens of a row, and how many of the last are targets; token i + 1 is predicted from those up to token i."""

    tokens: tuple[int, ...]
    targets: int

    @property
    def read(self) -> int:
        """The number of tokens that are read, which are all but the last."""
        return len(self.tokens) - 1


class Predicted(NamedTuple):
    """For each target of a row: its log-probability, and whether it was the likeliest, of all and of allowed tokens."""

    logprobs: np.ndarray
    greedy: np.ndarray
    filtered: np.ndarray


class Scorer:
    """A model that computes the likelihoods of texts."""

    def __init__(
        self, backend: Backend, config: GPT2Config, params: Weights, banned: Iterable[int] = (), batch_size: int = 16
    ) -> None:
        """Put `params` on the device, unless they are there. Filtered guesses leave out the `banned` tokens."""
        if batch_size < 1:
            raise InputError(f"a batch has at least 1 row, not {batch_size}")
        self.backend, self.config, self.batch_size = backend, config, batch_size
        self._params = backend.jit(backend.ops.compute_params)(on_device(backend, config, params))
        self._mask = np.zeros(config.vocab_size)
        self.ban(banned)

    def ban(self, tokens: Iterable[int]) -> None:
        """Change the tokens that filtered guesses leave out."""
        self._mask = np.zeros(self.config.vocab_size)
        self._mask[list(tokens)] = 1.0

    def score(self, requests: Sequence[Likelihood]) -> list[Likely]:
        """The answers, in order. Apart from rounding, they do not depend on each other or on `batch_size`."""
        rows = [row for request in requests for row in rows_of(request, self.config.n_ctx)]
        predicted: dict[int, Predicted] = {}
        for places in batches([row.read for row in rows], self.batch_size, self.config.n_ctx):
            for place, found in zip(places, self._predict([rows[i] for i in places]), strict=True):
                predicted[place] = found
        remaining = iter(predicted[i] for i in range(len(rows)))
        return [_joined([next(remaining) for _ in rows_of(request, self.config.n_ctx)]) for request in requests]

    def _predict(self, rows: Sequence[Row]) -> Iterator[Predicted]:
        width = width_of(max(row.read for row in rows), self.config.n_ctx)
        tokens = np.zeros((_padded(len(rows), self.batch_size), width), np.int32)
        for padded, row in zip(tokens, rows, strict=False):
            padded[: row.read] = row.tokens[:-1]
        hidden = _hidden(self.backend, self.config)(self._params, self.backend.put(tokens))
        places = [range(i * width + row.read - row.targets, i * width + row.read) for i, row in enumerate(rows)]
        targets = np.array([token for row in rows for token in row.tokens[len(row.tokens) - row.targets :]], np.int32)
        found = self._head(hidden, np.array([place for span in places for place in span], np.int32), targets)
        ends = np.cumsum([row.targets for row in rows])
        for end, row in zip(ends, rows, strict=True):
            yield Predicted(*(column[end - row.targets : end] for column in found))

    def _head(self, hidden: Tensor, places: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, ...]:
        """Compute log-probabilities for some positions at a time; the last group is padded."""
        most = max(HEAD_ROWS[0], min(HEAD_ROWS[1], 1 << int(math.log2(max(1, HEAD_VALUES // self.config.vocab_size)))))
        head, mask = _head(self.backend), self.backend.put(self._mask)
        columns = []
        for first in range(0, len(places), most):
            group = slice(first, min(first + most, len(places)))
            count = group.stop - group.start
            size = HEAD_ROWS[0] if count <= HEAD_ROWS[0] else most
            at, expected = (np.pad(array[group], (0, size - count)) for array in (places, targets))
            wte = self._params["wte"]["weight"]
            out = head(hidden, wte, self.backend.put(at), self.backend.put(expected), mask)
            losses, best, allowed = (self.backend.to_numpy(x)[:count] for x in out)
            columns.append((-losses.astype(np.float64), best == targets[group], allowed == targets[group]))
        return tuple(np.concatenate(column) for column in zip(*columns, strict=True))


def rows_of(request: Likelihood, n_ctx: int) -> list[Row]:
    """The rows that answer a request: one, unless the target is empty or longer than the context."""
    tokens = (*request.context, *request.target)
    if not request.target:
        return []
    if len(request.target) <= n_ctx:
        return [Row(tokens[-(n_ctx + 1) :], len(request.target))]
    tokens = tokens[len(request.context) - 1 :]
    return [Row(tokens[w.begin : w.end], w.end - w.first) for w in windows(len(tokens), n_ctx, n_ctx)]


def batches(lengths: Sequence[int], batch_size: int, n_ctx: int) -> Iterator[list[int]]:
    """Group rows of equal padded width, at most `batch_size` each, the longest first. Yields their indices."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    for _, group in itertools.groupby(order, lambda i: width_of(lengths[i], n_ctx)):
        places = list(group)
        yield from (places[first : first + batch_size] for first in range(0, len(places), batch_size))


def width_of(length: int, n_ctx: int) -> int:
    """The padded width of a row: 8, 16, 24, 32, 48, 64, 96, … (powers of two and their means), at most `n_ctx`."""
    power = max(8, 1 << (length - 1).bit_length())
    return min(n_ctx, power * 3 // 4 if power > 16 and length <= power * 3 // 4 else power)


def _padded(count: int, batch_size: int) -> int:
    """The padded number of rows of a batch that is not full: a power of two."""
    return min(batch_size, 1 << (count - 1).bit_length())


def _joined(rows: Sequence[Predicted]) -> Likely:
    if not rows:
        return Likely(0.0, (), True)
    logprobs, greedy, filtered = (np.concatenate(column) for column in zip(*rows, strict=True))
    if np.isnan(logprobs).any():
        raise InputError("the model's logits are not finite: its weights are damaged, or training has diverged")
    return Likely(math.fsum(logprobs), tuple(map(bool, greedy)), bool(filtered[0]))


@lru_cache(maxsize=16)
def _hidden(backend: Backend, config: GPT2Config) -> Callable[..., Tensor]:
    """(params, tokens [B, T]) -> the last hidden states [B T, D]."""

    def hidden(params: Tree, tokens: Tensor) -> Tensor:
        x, _, _ = transformer(backend.ops, config, params, tokens)
        return backend.ops.reshape(x, (-1, x.shape[-1]))

    return backend.jit(hidden)


@lru_cache(maxsize=16)
def _head(backend: Backend) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """(x [N, D], wte, places [M], targets [M], mask [V]) -> losses [M], likeliest tokens [M], and unmasked ones [M]."""
    ops = backend.ops

    def head(x: Tensor, wte: Tensor, places: Tensor, targets: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = ops.unembed(ops.take(x, places, axis=0), wte)  # [M, V]
        allowed = ops.where(ops.reshape(mask, (1, -1)) > 0.0, -math.inf, logits)
        return ops.cross_entropy(logits, targets), ops.argmax(logits, -1), ops.argmax(allowed, -1)

    return backend.jit(head)
