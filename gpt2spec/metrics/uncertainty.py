"""Standard errors say how far a score may be from its value on infinitely many examples of the same kind.

A standard error is NaN where there are fewer than two examples.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from gpt2spec.random import generator

RESAMPLES = 1000


def standard_error(values: Sequence[float] | np.ndarray) -> float:
    """s / sqrt(n): the standard error of the mean of independent values, with n - 1 in the denominator of s^2."""
    array = np.asarray(values, np.float64)
    return float(array.std(ddof=1) / math.sqrt(array.size)) if array.size > 1 else math.nan


def ratio_standard_error(numerators: Sequence[float] | np.ndarray, denominators: Sequence[float] | np.ndarray) -> float:
    """sqrt(n/(n-1) sum (y - R x)^2) / sum x: the standard error of R = sum y / sum x (delta method).

    The examples are independent. For a text's nats per token, they are its windows, with y nats in x tokens.
    """
    y, x = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if y.size < 2:
        return math.nan
    residuals = y - y.sum() / x.sum() * x
    return float(math.sqrt(y.size / (y.size - 1) * (residuals @ residuals)) / x.sum())


def perplexity_standard_error(perplexity: float, nats: float) -> float:
    """exp(H) * nats: the standard error of exp(H), where `nats` is that of H (delta method)."""
    return perplexity * nats if math.isfinite(perplexity) else math.inf


def bootstrap(statistic: Callable[[np.ndarray], float], count: int, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """The standard deviation of a statistic of `count` independent examples over resamples (Efron 1979).

    `statistic` is given the indices [count] of examples drawn with replacement; equal seeds draw equal ones.
    """
    if count < 2:
        return math.nan
    places = generator(seed, "bootstrap", count).integers(0, count, (resamples, count))
    return float(np.std([statistic(drawn) for drawn in places], ddof=1))
