"""From logits to a token: temperature, top-k, top-p, then the inverse CDF of one uniform number.

All of it on the host in float64, so that equal logits give equal tokens on every backend. Among equal logits the
lowest id comes first. Sources: Fan et al. 2018 (top-k), Holtzman et al. 2020 (top-p).
"""

from dataclasses import dataclass

import numpy as np

from gpt2spec.errors import ConfigError


@dataclass(frozen=True)
class SamplingOptions:
    """How the next token is chosen.

    Attributes:
        temperature: logits are divided by it; 0 means greedy.
        top_k: keep the k likeliest tokens; None keeps all.
        top_p: keep the smallest set of likeliest tokens whose probability is at least p (the token that
            crosses p is kept, and so always one); None keeps all.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature is a number of at least 0, not {self.temperature}")
        if self.top_k is not None and (not isinstance(self.top_k, int) or self.top_k < 1):
            raise ConfigError(f"top_k is a whole number of at least 1, not {self.top_k}")
        if self.top_p is not None and not 0.0 <= self.top_p <= 1.0:
            raise ConfigError(f"top_p lies from 0 to 1, not {self.top_p}")


def choose(logits: np.ndarray, options: SamplingOptions, uniform: float) -> int:
    """The next token from logits [V] and one uniform number in [0, 1)."""
    logits = logits.astype(np.float64)
    if options.temperature == 0.0:
        return int(np.argmax(logits))
    return inverse_cdf(filtered_probabilities(logits, options), uniform)


def filtered_probabilities(logits: np.ndarray, options: SamplingOptions) -> np.ndarray:
    """Probabilities [V] after temperature, top-k and top-p in this order; 0 for a token that was dropped."""
    with np.errstate(over="ignore"):  # a tiny temperature: all but the largest become -inf, which is right
        scaled = (logits - logits.max()) / options.temperature
    order = np.argsort(-logits, kind="stable")  # likeliest first, the lowest id first among equals
    if options.top_k is not None:
        order = order[: options.top_k]
    probabilities = _softmax(scaled[order])
    if options.top_p is not None:
        mass_before = np.cumsum(probabilities) - probabilities
        kept = max(1, int(np.count_nonzero(mass_before < options.top_p)))
        order, probabilities = order[:kept], _softmax(scaled[order[:kept]])
    result = np.zeros_like(scaled)
    result[order] = probabilities
    return result


def inverse_cdf(probabilities: np.ndarray, uniform: float) -> int:
    """The lowest id at which the running sum of probabilities [V] exceeds `uniform` times their total."""
    running = np.cumsum(probabilities)
    token = int(np.searchsorted(running, uniform * running[-1], side="right"))
    return min(token, int(np.flatnonzero(probabilities)[-1]))


def _softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max())
    return x / x.sum()
