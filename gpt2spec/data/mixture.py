"""A mixture presents several data sets as one, in given shares.

Windows come in periods of 2^16. In every period each data set has its share of places, a whole number of them, and a
permutation that needs no memory (`permuted`) decides which places those are. So the number of a window alone tells
which data set it comes from, and which window of that data set it is. A mixture, too, is resumed from one integer.
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
"""Windows in which every data set has its exact share."""


@dataclass(frozen=True, eq=False)
class MixedTokens(Tokens):
    """One split of a mixture. `shards` are those of all data sets.

    Attributes:
        datasets: the tokens of each data set.
        weights: the shares of the data sets are in proportion to these, or to their numbers of windows if None.
    """

    datasets: tuple[Tokens, ...] = ()
    weights: tuple[float, ...] | None = None


def mixed(datasets: Sequence[Tokens], weights: Sequence[float] | None) -> MixedTokens:
    """The mixture of several data sets. Weights that are no positive numbers are a `ConfigError`."""
    for weight in weights or ():
        if not 0 < weight < math.inf:
            raise ConfigError(f"a weight is a number above 0, not {weight}")
    shards = tuple(shard for dataset in datasets for shard in dataset.shards)
    chosen = None if weights is None else tuple(weights)
    return MixedTokens(shards, max(dataset.vocab_size for dataset in datasets), tuple(datasets), chosen)


def shares(weights: Sequence[float], total: int) -> np.ndarray:
    """Divide `total` places in proportion to weights [S], at least one each, by the method of largest remainders."""
    exact = np.asarray(weights, np.float64) / math.fsum(weights) * total
    whole = np.maximum(1, np.floor(exact)).astype(np.int64)
    order = np.argsort(whole - exact, kind="stable")  # the largest remainder first
    for place in range(max(0, total - int(whole.sum()))):
        whole[order[place % len(order)]] += 1
    while whole.sum() > total:
        whole[np.argmax(whole)] -= 1
    return whole


def scheduled(windows: np.ndarray, share: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The data set of each window [B] of the mixture, and the number [B] of that window within its data set.

    A data set's own numbers are 0, 1, 2, …; within a period they come in shuffled order. `share` [S] says how many
    places of a period each data set has.
    """
    ends = np.cumsum(share)
    periods, places = np.divmod(windows, PERIOD)
    slots = np.empty(len(windows), np.int64)
    for period in np.unique(periods):
        rows = periods == period
        slots[rows] = permuted(places[rows], PERIOD, stream_key(seed, "mixture", int(period)))
    sets = np.searchsorted(ends, slots, side="right")
    return sets, periods * share[sets] + slots - (ends - share)[sets]
