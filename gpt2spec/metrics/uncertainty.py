"""How far a score may be from what it would be on endlessly many examples of the kind: standard errors.

A standard error is NaN where there are fewer than two examples.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from gpt2spec.random import generator

RESAMPLES = 1000


def standard_error(values: Sequence[float] | np.ndarray) -> float:
    """Of the mean of independent values: their standard deviation (n - 1 in its denominator) over sqrt(n)."""
    array = np.asarray(values, np.float64)
    return float(array.std(ddof=1) / math.sqrt(array.size)) if array.size > 1 else math.nan


def ratio_standard_error(numerators: Sequence[float] | np.ndarray, denominators: Sequence[float] | np.ndarray) -> float:
    """Of R = sum y / sum x over independent examples: sqrt(n/(n-1) sum (y - R x)^2) / sum x (delta method).

    That of a text's nats per token, where the examples are its windows with y nats in x tokens.
    """
    y, x = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if y.size < 2:
        return math.nan
    residuals = y - y.sum() / x.sum() * x
    return float(math.sqrt(y.size / (y.size - 1) * (residuals @ residuals)) / x.sum())


def perplexity_standard_error(perplexity: float, nats: float) -> float:
    """Of exp(H), from the standard error `nats` of H: exp(H) times it (delta method)."""
    return perplexity * nats if math.isfinite(perplexity) else math.inf


def bootstrap(statistic: Callable[[np.ndarray], float], count: int, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Of any statistic of `count` independent examples: its standard deviation over resampled examples (Efron 1979).

    `statistic` is given places [count] of examples drawn with replacement, the same ones for the same seed.
    """
    if count < 2:
        return math.nan
    places = generator(seed, "bootstrap", count).integers(0, count, (resamples, count))
    return float(np.std([statistic(drawn) for drawn in places], ddof=1))
