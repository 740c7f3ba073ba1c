"""This module chooses a token from logits on the host: every filter, then the inverse CDF of one uniform number.

It computes in float64, so that equal logits give equal tokens on every backend. Among equal logits, the lowest id comes
first. `gpt2spec.decoding.on_device` does the same on the device.
"""

from collections.abc import Iterable

import numpy as np

from gpt2spec.decoding.options import GenerateOptions

LIKELY = 512
"""Top-p first sorts so many of the likeliest tokens, which are nearly always enough, before it sorts all."""


def choose(logits: np.ndarray, options: GenerateOptions, uniform: float) -> int:
    """The next token from logits [V] and one uniform number in [0, 1)."""
    if options.greedy:
        return int(np.argmax(logits))
    return inverse_cdf(filtered_probabilities(logits, options), uniform)


def penalised(logits: np.ndarray, seen: Iterable[int], penalty: float) -> np.ndarray:
    """Logits [V] in which those of the ids in `seen` are divided by `penalty` if positive, multiplied if negative."""
    if penalty == 1.0:
        return logits
    logits = logits.astype(np.float64)
    seen = list(set(seen))
    logits[seen] = np.where(logits[seen] > 0.0, logits[seen] / penalty, logits[seen] * penalty)
    return logits


def filtered_probabilities(logits: np.ndarray, options: GenerateOptions) -> np.ndarray:
    """Probabilities [V] after temperature, top-k, top-p and min-p in this order; 0 for a token that was dropped."""
    logits = logits.astype(np.float64)
    with np.errstate(over="ignore"):  # a tiny temperature: all but the largest become -inf, which is right
        scaled = (logits - logits.max()) / options.temperature
    if not options.filters:
        return _softmax(scaled)
    for count in (LIKELY, scaled.size) if options.top_k is None else (options.top_k,):
        order = likeliest(logits, count)
        probabilities = np.exp(scaled[order])
        probabilities /= (np.exp(scaled) if options.top_k is None else probabilities).sum()
        kept = _kept(probabilities, options)
        if kept < order.size:
            break
    result = np.zeros_like(scaled)
    result[order[:kept]] = probabilities[:kept] / probabilities[:kept].sum()
    return result


def _kept(probabilities: np.ndarray, options: GenerateOptions) -> int:
    """How many tokens top-p and then min-p keep, given probabilities in descending order."""
    running = np.cumsum(probabilities)
    kept = probabilities.size
    if options.top_p is not None and options.top_p < 1.0:
        within = running - probabilities < options.top_p if options.top_p_rule == "reach" else running <= options.top_p
        kept = max(1, int(np.count_nonzero(within)))
    if options.min_p is not None:
        kept = min(kept, int(np.count_nonzero(probabilities >= options.min_p * probabilities[0])))
    return kept


def likeliest(logits: np.ndarray, count: int) -> np.ndarray:
    """The ids of the `count` largest logits [V], the largest first, and among equals the lowest id first."""
    if count >= logits.size:
        return np.argsort(-logits, kind="stable")
    smallest = np.partition(logits, -count)[-count]
    above = np.flatnonzero(logits > smallest)
    ids = np.concatenate([above, np.flatnonzero(logits == smallest)[: count - above.size]])
    return ids[np.lexsort((ids, -logits[ids]))]


def inverse_cdf(probabilities: np.ndarray, uniform: float) -> int:
    """The lowest id at which the running sum of probabilities [V] exceeds `uniform` times their total."""
    running = np.cumsum(probabilities)
    token = int(np.searchsorted(running, uniform * running[-1], side="right"))
    return min(token, int(np.flatnonzero(probabilities)[-1]))


def log_sum_exp(logits: np.ndarray) -> np.ndarray:
    """log(sum(exp(logits))) over the last axis, which is kept; `exp` in the logits' dtype, the sum in float64."""
    peak = logits.max(-1, keepdims=True)
    with np.errstate(invalid="ignore"):  # logits that are not finite give NaN
        return peak + np.log(np.exp(logits - peak).sum(-1, keepdims=True, dtype=np.float64))


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """log softmax over the last axis in float64: the model's own log-probabilities, before any penalty or filter."""
    with np.errstate(invalid="ignore"):
        return logits - log_sum_exp(logits)


def _softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max())
    return x / x.sum()
