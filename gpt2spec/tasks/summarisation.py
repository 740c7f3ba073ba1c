"""CNN/DailyMail asks for summaries of news articles (Hermann et al. 2015, See et al. 2017)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt2spec.errors import DataError
from gpt2spec.metrics.rouge import rouge_l_summary, rouge_n, words_of
from gpt2spec.tasks.published import published
from gpt2spec.tasks.reader import Reader
from gpt2spec.tasks.requests import Asked, Request
from gpt2spec.tasks.sentences import sentences
from gpt2spec.tasks.sources import json_lines, read_text
from gpt2spec.tasks.task import Score, Task, mean_score

HINT = "\nTL;DR:"
MAX_NEW_TOKENS = 100
TOP_K = 2
SENTENCES = 3
_MEASURES = ("ROUGE-1", "ROUGE-2", "ROUGE-L")


@dataclass(frozen=True)
class Article:
    """An article and the sentences that summarise it."""

    text: str
    highlights: tuple[str, ...]


class Summaries(Task):
    """ROUGE of summaries with and without the hint `TL;DR:`, and of the article's own first sentences."""

    def read(self, path: Path) -> list[Article]:
        """Read a folder of `.story` files, or JSON lines with "article" and "highlights"."""
        if path.is_file():
            found = json_lines(path, "article", "highlights")
            return [Article(each["article"].strip(), tuple(_lines(each["highlights"]))) for each in found]
        files = sorted(path.rglob("*.story"))
        if not files:
            raise DataError(f"{path} is no folder with .story files")
        return [_story(file) for file in files]

    def requests(self, example: Article, reader: Reader) -> list[Request]:
        """Ask for a summary with and without the hint."""
        return [
            reader.continuation(hint, MAX_NEW_TOKENS, document=example.text, temperature=1.0, top_k=TOP_K)
            for hint in (HINT, "")
        ]

    def scores(self, examples: Sequence[Article], asked: Sequence[Asked], reader: Reader) -> list[Score]:
        """F1 of ROUGE-1, ROUGE-2 and ROUGE-L, and their mean."""
        made = f"{MAX_NEW_TOKENS} tokens with top-k {TOP_K}, their first {SENTENCES} sentences"
        texts = [[answer.text for answer in each.texts] for each in asked]
        return [
            *_scores(examples, [pair[0] for pair in texts], "with the hint", f"article, `TL;DR:`; {made}", ""),
            *_scores(examples, [pair[1] for pair in texts], "without hint", f"article; {made}", " without hint"),
            *_scores(
                examples, [e.text for e in examples], "first sentences", "no model: the article", " first sentences"
            ),
        ]


def _scores(examples: Sequence[Article], texts: Sequence[str], which: str, protocol: str, suffix: str) -> list[Score]:
    values = np.array([rouge_of(text, example) for text, example in zip(texts, examples, strict=True)])  # [N, 3]
    protocol += "; F1 of words without stemming"
    singly = [
        mean_score(f"{name}, {which}", column, protocol, published(name.lower() + suffix))
        for name, column in zip(_MEASURES, values.T, strict=True)
    ]
    return [
        *singly,
        mean_score(f"ROUGE, {which}", values.mean(1), f"{protocol}; mean of the three", published("rouge" + suffix)),
    ]


def rouge_of(text: str, article: Article) -> list[float]:
    """The F1 scores of the first sentences of a text: ROUGE-1, ROUGE-2, and ROUGE-L between sentences."""
    prediction = [words_of(sentence) for sentence in sentences(text)[:SENTENCES]]
    reference = [words_of(sentence) for sentence in article.highlights]
    flat, expected = ([word for sentence in side for word in sentence] for side in (prediction, reference))
    return [*(rouge_n(flat, expected, n).f for n in (1, 2)), rouge_l_summary(prediction, reference).f]


def _story(path: Path) -> Article:
    text, *highlights = read_text(path).split("@highlight")
    if not highlights:
        raise DataError(f"{path} has no @highlight")
    return Article("\n".join(_lines(text)), tuple(" ".join(each.split()) for each in highlights))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]
