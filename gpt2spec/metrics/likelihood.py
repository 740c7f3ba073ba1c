"""These scores say how well a model predicts a text: cross entropy, perplexity, bits per byte and per character.

All are computed from natural logarithms of probabilities. A text's total is divided by the number of units that the
score is about. These need not be the predicted tokens: words, bytes and characters make models with different
tokenizers comparable.
"""

import math
from collections.abc import Sequence

import numpy as np

from gpt2spec.errors import InputError


def cross_entropy(logprobs: Sequence[float] | np.ndarray) -> float:
    """-1/N sum log p(x_i | x_<i): the mean negative log-likelihood, in nats per token."""
    return scaled_cross_entropy(math.fsum(logprobs), len(logprobs))


def scaled_cross_entropy(total: float, count: int) -> float:
    """-total / count: nats per unit of a text whose log-likelihood is `total` and which has `count` units."""
    if count < 1:
        raise InputError("there is nothing to average: the text has no tokens, words, bytes or characters")
    return -total / count


def perplexity(logprobs: Sequence[float] | np.ndarray) -> float:
    """exp(cross entropy), per token; infinity where that is too large for a float."""
    return exponential(cross_entropy(logprobs))


def scaled_perplexity(total: float, count: int) -> float:
    """Perplexity per unit, exp(-total / count): the logarithm is scaled to the other count before exponentiation."""
    return exponential(scaled_cross_entropy(total, count))


def bits_per_byte(total: float, text: str) -> float:
    """-total / (bytes ln 2), with the bytes of the text in UTF-8."""
    return scaled_cross_entropy(total, len(text.encode("utf-8"))) / math.log(2.0)


def bits_per_character(total: float, text: str) -> float:
    """-total / (characters ln 2)."""
    return scaled_cross_entropy(total, len(text)) / math.log(2.0)


def exponential(nats: float) -> float:
    """e ** nats, or infinity where a float cannot hold it."""
    return math.exp(nats) if nats < 709.0 else math.inf
