"""BLEU scores a corpus of translations, on a scale from 0 to 100 (Papineni et al. 2002).

    BLEU = 100 BP exp(1/4 sum log p_n),  BP = min(1, exp(1 - r / c))

p_n is the share of the corpus's n-grams, n = 1 to 4, that are in a reference of their segment; none is counted more
often than it occurs in the reference that has it most often. c is the total length of the hypotheses. r is that of the
references, taking from each segment the reference nearest in length, and the shorter of two equally near ones.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import numpy as np

from gpt2spec.errors import InputError
from gpt2spec.metrics.rouge import ngram_counts

ORDERS = (1, 2, 3, 4)

_SYMBOL = re.compile(r"([ -&(-+:-@/\[-`{-~])")
_AFTER_NO_DIGIT = re.compile(r"([^0-9])([.,])")
_BEFORE_NO_DIGIT = re.compile(r"([.,])([^0-9])")
_DASH = re.compile(r"([0-9])(-)")
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))


@dataclass(frozen=True)
class Bleu:
    """A score with its components: the four precisions in per cent, the brevity penalty and both lengths."""

    score: float
    precisions: tuple[float, ...]
    brevity_penalty: float
    hypothesis_length: int
    reference_length: int


def tokenise_13a(text: str) -> list[str]:
    """The words and symbols of a segment by the rules of NIST's mteval-v13a, with which WMT compares systems.

    Every symbol except the apostrophe is a word; full stops, commas and dashes within numbers stay in them.
    """
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    text = _SYMBOL.sub(r" \1 ", f" {text} ")
    text = _AFTER_NO_DIGIT.sub(r"\1 \2 ", text)
    text = _BEFORE_NO_DIGIT.sub(r" \1 \2", text)
    return _DASH.sub(r"\1 \2 ", text).split()


def segment_counts(hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """The counts of one segment, to be added over a corpus: [10] lengths c and r, matches and n-grams of each order."""
    if not references:
        raise InputError("BLEU needs at least one reference for every segment")
    nearest = min(map(len, references), key=lambda length: (abs(length - len(hypothesis)), length))
    matches, totals = [], []
    for n in ORDERS:
        counts = ngram_counts(hypothesis, n)
        allowed: Counter[tuple[str, ...]] = reduce(or_, (ngram_counts(reference, n) for reference in references))
        matches.append((counts & allowed).total())
        totals.append(counts.total())
    return np.array([len(hypothesis), nearest, *matches, *totals], np.int64)


def bleu_from_counts(counts: np.ndarray, smooth: bool = False) -> Bleu:
    """Compute BLEU of a corpus from the sum [10] of its segments' counts.

    An order without a match makes the score 0. With `smooth`, the first such order is given half a match, the next a
    quarter and so on, as in sacrebleu's default, unless nothing matches at all.
    """
    hypothesis, reference = int(counts[0]), int(counts[1])
    matches, totals = counts[2:6].astype(float), counts[6:10].astype(float)
    share = 1.0
    for n in range(len(ORDERS) if smooth and matches.any() else 0):
        if totals[n] and not matches[n]:
            share /= 2.0
            matches[n] = share
    precisions = [m / t if t else 0.0 for m, t in zip(matches, totals, strict=True)]
    penalty = 1.0 if hypothesis >= reference else math.exp(1.0 - reference / hypothesis) if hypothesis else 0.0
    logs = [math.log(p) if p else -math.inf for p in precisions]
    score = 100.0 * penalty * math.exp(sum(logs) / len(logs))
    return Bleu(score, tuple(100.0 * p for p in precisions), penalty, hypothesis, reference)


def corpus_bleu(
    hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]], smooth: bool = False
) -> Bleu:
    """Compute BLEU of hypotheses, which are lists of words, each with one or more references."""
    if len(hypotheses) != len(references) or not hypotheses:
        raise InputError(f"{len(hypotheses)} hypotheses need as many sets of references, not {len(references)}")
    counts = [segment_counts(mine, theirs) for mine, theirs in zip(hypotheses, references, strict=True)]
    return bleu_from_counts(np.sum(counts, axis=0), smooth)
