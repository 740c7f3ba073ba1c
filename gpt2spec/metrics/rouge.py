"""ROUGE measures how much of a reference summary a summary recalls (Lin 2004).

Texts are first divided into words, which are runs of ASCII letters and digits in lower case; there is no stemming, and
no stop words are left out. Scores are 0 where there is nothing to compare.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

_WORDS = re.compile(r"[a-z0-9]+")


class Rouge(NamedTuple):
    """The share of the reference that was found, the share of the prediction that was right, and F_beta of both."""

    recall: float
    precision: float
    f: float


def words_of(text: str) -> list[str]:
    """The words of a text."""
    return _WORDS.findall(text.lower())


def rouge_n(prediction: Sequence[str], reference: Sequence[str], n: int, beta: float = 1.0) -> Rouge:
    """ROUGE-N counts the n-grams that both have, each as often as in the one that has it less often."""
    predicted, expected = ngram_counts(prediction, n), ngram_counts(reference, n)
    return _rouge((predicted & expected).total(), predicted.total(), expected.total(), beta)


def rouge_l(prediction: Sequence[str], reference: Sequence[str], beta: float = 1.0) -> Rouge:
    """R = LCS / reference's length, P = LCS / prediction's length, F = (1 + beta^2) R P / (R + beta^2 P).

    This is ROUGE-L; LCS is the length in words of the longest common subsequence.
    """
    return _rouge(len(common_subsequence(reference, prediction)), len(prediction), len(reference), beta)


def rouge_l_summary(
    prediction: Sequence[Sequence[str]], reference: Sequence[Sequence[str]], beta: float = 1.0
) -> Rouge:
    """ROUGE-L at the level of the summary, for texts of several sentences (Lin 2004, section 3.2).

    In each sentence of the reference, those words count that are in its longest common subsequence with any sentence of
    the prediction. No word counts more often than both texts have it, as in the program ROUGE-1.5.5.
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
    """The indices in `reference` of a longest common subsequence; where there are several, `_traced` chooses."""
    lengths = [[0] * (len(other) + 1)]
    for word in reference:
        above, row = lengths[-1], [0]
        for j, mine in enumerate(other):
            row.append(above[j] + 1 if word == mine else max(above[j + 1], row[j]))
        lengths.append(row)
    return _traced(lengths, reference, other)


def _traced(lengths: list[list[int]], reference: Sequence[str], other: Sequence[str]) -> list[int]:
    """Go back from both ends: take a common word, or else shorten the reference, if that loses nothing."""
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
