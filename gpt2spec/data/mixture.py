"""Several sets of tokens as one, in given shares.

Windows come in periods of 2^16. In every period each set has its share of places, a whole number, and which places
those are is shuffled by a permutation that needs no memory (`permuted`). So the set of any place, and which of the
set's own windows stands there, are known from the place alone: a mixture is resumed from one integer as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpt2spec.data.permutation import permuted
from gpt2spec.data.shards import Tokens
from gpt2spec.errors import ConfigError
from gpt2spec.random import stream_key

PERIOD = 1 << 16


@dataclass(frozen=True, eq=False)
class MixedTokens(Tokens):
    """The tokens of one split of several sets. `shards` are those of all.

    Attributes:
        parts: the sets.
        weights: the shares, in proportion; None is as many as each has windows.
    """

    parts: tuple[Tokens, ...] = ()
    weights: tuple[float, ...] | None = None


def mixed(parts: Sequence[Tokens], weights: Sequence[float] | None) -> MixedTokens:
    """Some sets as one; weights that are no positive numbers are a `ConfigError`."""
    for weight in weights or ():
        if not 0 < weight < math.inf:
            raise ConfigError(f"a weight is a number above 0, not {weight}")
    shards = tuple(shard for part in parts for shard in part.shards)
    chosen = None if weights is None else tuple(weights)
    return MixedTokens(shards, max(part.vocab_size for part in parts), tuple(parts), chosen)


def shares(weights: Sequence[float], total: int) -> np.ndarray:
    """`total` places shared out in proportion to some weights [S], each at least one: by the largest remainders."""
    exact = np.asarray(weights, np.float64) / math.fsum(weights) * total
    whole = np.maximum(1, np.floor(exact)).astype(np.int64)
    order = np.argsort(whole - exact, kind="stable")  # the largest remainder first
    for place in range(max(0, total - int(whole.sum()))):
        whole[order[place % len(order)]] += 1
    while whole.sum() > total:
        whole[np.argmax(whole)] -= 1
    return whole


def scheduled(positions: np.ndarray, share: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The set at some positions [B], and how many of its windows came before: every set's run through 0, 1, 2, …

    Within a period they come in shuffled order. `share` [S] are the places of each set in a period.
    """
    ends = np.cumsum(share)
    periods, places = np.divmod(positions, PERIOD)
    slots = np.empty(len(positions), np.int64)
    for period in np.unique(periods):
        rows = periods == period
        slots[rows] = permuted(places[rows], PERIOD, stream_key(seed, "mixture", int(period)))
    sets = np.searchsorted(ends, slots, side="right")
    return sets, periods * share[sets] + slots - (ends - share)[sets]
