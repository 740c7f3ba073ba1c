"""This module compares answers with references: exact match, token F1 and accuracy.

Normalisation is that of SQuAD's evaluation (Rajpurkar et al. 2016), which CoQA's and many others share: lower case,
no ASCII punctuation, no articles, single spaces.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import numpy as np

from gpt2spec.errors import InputError

S = TypeVar("S", bound=Sequence[Any])

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = dict.fromkeys(map(ord, string.punctuation))


def normalised(answer: str) -> str:
    """The answer in lower case, without punctuation and articles, its words separated by single spaces."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, references: Sequence[str], normalise: Callable[[str], str] = normalised) -> float:
    """1 if the prediction is one of the references, otherwise 0. `normalise=str` compares them as they are."""
    return float(normalise(prediction) in {normalise(reference) for reference in _some(references)})


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """The best F1 with any reference, over the words of the normalised texts as bags.

    2 P R / (P + R), where P and R are the shares of the prediction's and of the reference's words that are common.
    A text without words agrees only with another: 1, otherwise 0.
    """
    return max(_f1(normalised(prediction).split(), normalised(each).split()) for each in _some(references))


def leave_one_out(score: Callable[[str, Sequence[str]], float], prediction: str, references: Sequence[str]) -> float:
    """The mean of a score over all ways to leave one of several references out, as CoQA's evaluation has it.

    So people, each compared with all others, and models are compared with equally many references.
    """
    if len(_some(references)) == 1:
        return score(prediction, references)
    others = [[*references[:i], *references[i + 1 :]] for i in range(len(references))]
    return float(np.mean([score(prediction, rest) for rest in others]))


def accuracy(predicted: Sequence[Hashable], expected: Sequence[Hashable]) -> float:
    """The share of predictions that equal what was expected."""
    if len(predicted) != len(expected):
        raise InputError(f"there are {len(predicted)} predictions and {len(expected)} expected values")
    return float(np.mean([mine == right for mine, right in zip(_some(predicted), expected, strict=True)]))


def most_confident(confidences: Sequence[float], share: float) -> list[int]:
    """The indices of the most confident answers: `share` of all, at least one; among equals, the earlier ones."""
    count = max(1, round(share * len(_some(confidences))))
    return sorted(range(len(confidences)), key=lambda i: (-confidences[i], i))[:count]


def _f1(predicted: Sequence[str], reference: Sequence[str]) -> float:
    if not predicted or not reference:
        return float(predicted == reference)
    common = (Counter(predicted) & Counter(reference)).total()
    return 2.0 * common / (len(predicted) + len(reference))


def _some(values: S) -> S:
    if not len(values):
        raise InputError("there is nothing to score: the list is empty")
    return values
