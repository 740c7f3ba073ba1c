"""Translation between English and French, from WMT14's news test set or any two files of the same form."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt2spec.errors import DataError
from gpt2spec.metrics.bleu import bleu_from_counts, segment_counts, tokenise_13a
from gpt2spec.metrics.uncertainty import bootstrap
from gpt2spec.tasks.published import published
from gpt2spec.tasks.reader import Reader
from gpt2spec.tasks.requests import Asked, Request
from gpt2spec.tasks.sentences import first_sentences
from gpt2spec.tasks.sources import read_text
from gpt2spec.tasks.task import Score, Task

SHOTS = 5
"""The first pairs of the files, so many of them, are shown before every sentence and not scored."""
MAX_NEW_TOKENS = 128

_PATTERNS = {"en": ("*.en.sgm", "*.en", "eng_*"), "fr": ("*.fr.sgm", "*.fr", "fra_*")}
_SEGMENT = re.compile(r"<seg[^>]*>(.*?)</seg>", re.DOTALL)


@dataclass(frozen=True)
class Sentence:
    """A sentence, its translation, and the pairs shown before it."""

    source: str
    target: str
    shown: str


@dataclass(frozen=True)
class Translation(Task):
    """Translation from one language into another, "en" or "fr", scored by BLEU."""

    source: str
    target: str

    def read(self, path: Path) -> list[Sentence]:
        """Read a folder with one file for each language, with one sentence per line or in WMT's `.sgm` format."""
        sources, targets = (
            _segments(_file(path, language, word)) for language, word in ((self.source, "src"), (self.target, "ref"))
        )
        if len(sources) != len(targets):
            raise DataError(f"{path} has {len(sources)} sentences in one language and {len(targets)} in the other")
        pairs = [(a, b) for a, b in zip(sources, targets, strict=True) if a and b]
        if len(pairs) <= SHOTS:
            raise DataError(f"{path} has {len(pairs)} pairs; {SHOTS} are shown, and none is left to score")
        shown = "".join(f"{source} = {target}\n" for source, target in pairs[:SHOTS])
        return [Sentence(source, target, shown) for source, target in pairs[SHOTS:]]

    def requests(self, example: Sentence, reader: Reader) -> list[Request]:
        """Ask for the text after the pairs, the sentence and an equals sign."""
        prompt = f"{example.shown}{example.source} ="
        return [reader.continuation(prompt, MAX_NEW_TOKENS, stop=("\n",))]

    def scores(self, examples: Sequence[Sentence], asked: Sequence[Asked], reader: Reader) -> list[Score]:
        """The BLEU score of the corpus, with a bootstrapped standard error."""
        made = [first_sentences(each.texts[0].text, 1) for each in asked]
        counts = np.array(
            [
                segment_counts(tokenise_13a(text), [tokenise_13a(example.target)])
                for text, example in zip(made, examples, strict=True)
            ]
        )
        bleu = bleu_from_counts(counts.sum(0))
        return [
            Score(
                "BLEU",
                bleu.score,
                bootstrap(lambda drawn: bleu_from_counts(counts[drawn].sum(0)).score, len(counts)),
                len(examples),
                f"{SHOTS} pairs `sentence = translation`, then `sentence =`; greedy, first sentence; "
                "words by mteval-v13a, with their case; standard error by bootstrap",
                published(f"wmt14-{self.source}-{self.target}"),
                {"brevity_penalty": bleu.brevity_penalty},
            )
        ]


def english_to_french() -> Translation:
    """Translation into French."""
    return Translation("en", "fr")


def french_to_english() -> Translation:
    """Translation into English."""
    return Translation("fr", "en")


def _file(path: Path, language: str, word: str) -> Path:
    """The file of a language. Where there are several, `word` ("src" or "ref") must be in its name."""
    for pattern in _PATTERNS[language]:
        found = sorted(path.rglob(pattern)) if path.is_dir() else []
        found = [each for each in found if word in each.name] or found
        if len(found) > 1:
            raise DataError(f"{path} has {len(found)} files {pattern}: leave one in it")
        if found:
            return found[0]
    raise DataError(f"{path} is no folder with a file {' or '.join(_PATTERNS[language])}")


def _segments(path: Path) -> list[str]:
    text = read_text(path)
    found = _SEGMENT.findall(text) if path.suffix == ".sgm" else text.rstrip("\n").split("\n")
    return [" ".join((html.unescape(each) if path.suffix == ".sgm" else each).split()) for each in found]
