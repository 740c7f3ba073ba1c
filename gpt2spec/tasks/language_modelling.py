"""WikiText, PTB and One Billion Words, scored by perplexity; enwik8 and text8, by bits per byte and per character."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt2spec.errors import DataError
from gpt2spec.files import data_errors
from gpt2spec.metrics import likelihood
from gpt2spec.metrics.uncertainty import perplexity_standard_error, ratio_standard_error
from gpt2spec.tasks.detokenise import BILLION_WORDS, PTB, WIKITEXT, Style
from gpt2spec.tasks.published import published
from gpt2spec.tasks.reader import Reader
from gpt2spec.tasks.requests import Asked, Request
from gpt2spec.tasks.sources import only_file, read_text
from gpt2spec.tasks.task import Score, Task

TEST_SHARE = 20
"""The test set of enwik8 and text8 is their last twentieth, 5 of 100 million bytes."""


@dataclass(frozen=True)
class Passage:
    """A text that is read by itself.

    Attributes:
        text: what the model reads.
        units: the number of words, bytes or characters of the original, over which the score is taken.
    """

    text: str
    units: int


@dataclass(frozen=True)
class Texts(Task):
    """A text, scored by perplexity per word of the original, counting line ends as words, and per token.

    Attributes:
        name: the task's name, which is also that of its published score.
        files: patterns of the name of its test file.
        style: how it was tokenised, if that is to be undone.
        by_line: whether every line is a text of its own.
    """

    name: str
    files: tuple[str, ...]
    style: Style | None = None
    by_line: bool = False

    def read(self, path: Path) -> list[Passage]:
        """Read the test file as one passage, or as one for each line."""
        text = read_text(only_file(path, *self.files), newline="")
        texts = re.findall(r"[^\n]*\n|[^\n]+", text) if self.by_line else [text]
        return [self._passage(each) for each in texts if each.strip()]

    def _passage(self, text: str) -> Passage:
        natural = text if self.style is None else self.style.detokenise(text)
        return Passage(natural, len(text.split()) + text.count("\n"))

    def requests(self, example: Passage, reader: Reader) -> list[Request]:
        """Ask for the likelihood of the windows over a passage."""
        return [*reader.text(example.text)]

    def scores(self, examples: Sequence[Passage], asked: Sequence[Asked], reader: Reader) -> list[Score]:
        """The perplexity per word and per token."""
        total, tokens, stderr = _totals(asked)
        words = sum(example.units for example in examples)
        read = "each line by itself" if self.by_line else _windows(reader)
        form = "as it is" if self.style is None else "de-tokenised invertibly"
        details = {"log_likelihood": total, "tokens": tokens, "words": words}
        per_word, per_token = (likelihood.scaled_perplexity(total, count) for count in (words, tokens))
        of_words, of_tokens = published(self.name), None
        if self.style is None:
            of_words, of_tokens = of_tokens, of_words
        return [
            Score(
                "perplexity per word",
                per_word,
                perplexity_standard_error(per_word, stderr * tokens / words),
                len(examples),
                f"text {form}, {read}; nats over words and line ends of the original",
                of_words,
                details,
            ),
            Score(
                "perplexity per token",
                per_token,
                perplexity_standard_error(per_token, stderr),
                len(examples),
                f"text {form}, {read}; nats over the model's tokens",
                of_tokens,
                details,
            ),
        ]


@dataclass(frozen=True)
class Compression(Task):
    """The last twentieth of enwik8, scored by bits per byte, or that of text8, scored by bits per character."""

    name: str
    unit: str

    def read(self, path: Path) -> list[Passage]:
        """Read the last twentieth of the file, from the first whole character on."""
        path = only_file(path, self.name)
        try:
            with data_errors(path), path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(size - size // TEST_SHARE)
                content = file.read()
            text = content.lstrip(bytes(range(0x80, 0xC0))).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not {self.name}: it is not UTF-8 ({error.reason})") from error
        return [Passage(text, len(text.encode()) if self.unit == "byte" else len(text))] if text else []

    def requests(self, example: Passage, reader: Reader) -> list[Request]:
        """Ask for the likelihood of the windows over the test set."""
        return [*reader.text(example.text)]

    def scores(self, examples: Sequence[Passage], asked: Sequence[Asked], reader: Reader) -> list[Score]:
        """The bits per byte or per character."""
        total, tokens, stderr = _totals(asked)
        units = sum(example.units for example in examples)
        return [
            Score(
                f"bits per {self.unit}",
                likelihood.scaled_cross_entropy(total, units) / math.log(2.0),
                stderr * tokens / units / math.log(2.0),
                len(examples),
                f"the last twentieth of the file, {_windows(reader)}",
                published(self.name),
                {"log_likelihood": total, "tokens": tokens, f"{self.unit}s": units},
            )
        ]


def _totals(asked: Sequence[Asked]) -> tuple[float, int, float]:
    """The log-likelihood of all texts, their number of tokens, and the standard error of nats per token."""
    answers = [answer for each in asked for answer in each.likely]
    nats, tokens = [-answer.total for answer in answers], [len(answer.greedy) for answer in answers]
    return -math.fsum(nats), sum(tokens), ratio_standard_error(nats, tokens)


def _windows(reader: Reader) -> str:
    return f"after <|endoftext|>, windows of {reader.n_ctx:,} tokens moved on by {reader.stride:,}"


def wikitext_2() -> Texts:
    """The test set of WikiText-2, de-tokenised."""
    return Texts("wikitext-2", ("wiki.test.tokens", "wiki.test.raw"), WIKITEXT)


def wikitext_103() -> Texts:
    """The test set of WikiText-103, which is that of WikiText-2 with other words marked as rare."""
    return Texts("wikitext-103", ("wiki.test.tokens", "wiki.test.raw"), WIKITEXT)


def wikitext_2_raw() -> Texts:
    """The raw test set of WikiText-2 as it is."""
    return Texts("wikitext-2-raw", ("wiki.test.raw", "wiki.test.tokens"))


def penn_treebank() -> Texts:
    """The test set of Mikolov's PTB, de-tokenised."""
    return Texts("ptb", ("ptb.test.txt",), PTB)


def billion_words() -> Texts:
    """The test set of One Billion Words, de-tokenised; each line is a text."""
    return Texts("1bw", ("news.en.heldout-00000-of-00050",), BILLION_WORDS, by_line=True)


def enwik8() -> Compression:
    """The first 100 million bytes of a dump of Wikipedia."""
    return Compression("enwik8", "byte")


def text8() -> Compression:
    """The text of enwik8, reduced to letters and spaces."""
    return Compression("text8", "character")
