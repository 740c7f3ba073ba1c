"""ROUGE: how much of a reference summary a summary recalls (Lin 2004).

Texts become words first: lower case, runs of ASCII letters and digits, no stemming and no stop words. Scores are 0
where there is nothing to compare.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

_WORDS = re.compile(r"[a-z0-9]+")


class Rouge(NamedTuple):
    """Shares of the reference that are found, of the prediction that were right, and F_beta of both."""

    recall: float
    precision: float
    f: float


def words_of(text: str) -> list[str]:
    """The words of a text."""
    return _WORDS.findall(text.lower())


def rouge_n(prediction: Sequence[str], reference: Sequence[str], n: int, beta: float = 1.0) -> Rouge:
    """ROUGE-N of words: n-grams that both have, each as often as in the one that has it less often."""
    predicted, expected = ngram_counts(prediction, n), ngram_counts(reference, n)
    return _rouge((predicted & expected).total(), predicted.total(), expected.total(), beta)


def rouge_l(prediction: Sequence[str], reference: Sequence[str], beta: float = 1.0) -> Rouge:
    """ROUGE-L of words: the longest common subsequence.

    R = LCS / reference's length, P = LCS / prediction's length, F = (1 + beta^2) R P / (R + beta^2 P).
    """
    return _rouge(len(common_subsequence(reference, prediction)), len(prediction), len(reference), beta)


def rouge_l_summary(
    prediction: Sequence[Sequence[str]], reference: Sequence[Sequence[str]], beta: float = 1.0
) -> Rouge:
    """ROUGE-L of several sentences of words each, at the level of the summary (Lin 2004, section 3.2).

    For each sentence of the reference, the words count that are in its longest common subsequence with any sentence
    of the prediction; no word more often than both texts have it, as in the program ROUGE-1.5.5.
    """
    predicted = Counter(word for sentence in prediction for word in sentence)
    expected = Counter(word for sentence in reference for word in sentence)
    left, hits = predicted & expected, 0
    for sentence in reference:
        union = sorted({place for other in prediction for place in common_subsequence(sentence, other)})
        for word in (sentence[place] for place in union):
            if left[word]:
                left[word] -= 1
                hits += 1
    return _rouge(hits, predicted.total(), expected.total(), beta)


def ngram_counts(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """How often each n-gram occurs."""
    return Counter(zip(*(words[i:] for i in range(n)), strict=False))


def common_subsequence(reference: Sequence[str], other: Sequence[str]) -> list[int]:
    """Places in `reference` of a longest common subsequence; of several, the one that `_traced` finds."""
    lengths = [[0] * (len(other) + 1)]
    for word in reference:
        above, row = lengths[-1], [0]
        for j, mine in enumerate(other):
            row.append(above[j] + 1 if word == mine else max(above[j + 1], row[j]))
        lengths.append(row)
    return _traced(lengths, reference, other)


def _traced(lengths: list[list[int]], reference: Sequence[str], other: Sequence[str]) -> list[int]:
    """Back from the ends of both: a common word is taken; otherwise the reference is shortened, if that is no loss."""
    places, i, j = [], len(reference), len(other)
    while i and j:
        if reference[i - 1] == other[j - 1]:
            i, j = i - 1, j - 1
            places.append(i)
        elif lengths[i][j - 1] > lengths[i - 1][j]:
            j -= 1
        else:
            i -= 1
    return places[::-1]


def _rouge(common: int, predicted: int, expected: int, beta: float) -> Rouge:
    if not common:
        return Rouge(0.0, 0.0, 0.0)
    recall, precision = common / expected, common / predicted
    return Rouge(recall, precision, (1.0 + beta**2) * recall * precision / (recall + beta**2 * precision))
