"""HellaSwag and StoryCloze, in which a model chooses an ending by its likelihood."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt2spec.errors import DataError
from gpt2spec.tasks.published import published
from gpt2spec.tasks.reader import Reader
from gpt2spec.tasks.requests import Asked, Likely, Request
from gpt2spec.tasks.sources import csv_rows, json_lines, only_file
from gpt2spec.tasks.task import Score, Task, mean_score


@dataclass(frozen=True)
class Choice:
    """A context, the endings to choose from, and the index of the right one."""

    context: str
    endings: tuple[str, ...]
    right: int


def best(totals: Sequence[float]) -> int:
    """The index of the largest total, the first one if several are equal."""
    return int(np.argmax(totals))


def chosen(examples: Sequence[Choice], asked: Sequence[Asked], by_length: bool = False) -> list[bool]:
    """For each example, whether the right ending is the likeliest, or, if `by_length`, the likeliest per character."""

    def totals(example: Choice, answers: Sequence[Likely]) -> list[float]:
        lengths = [len(ending) - 1 if by_length else 1 for ending in example.endings]  # without the space
        return [answer.total / length for answer, length in zip(answers, lengths, strict=True)]

    return [best(totals(e, a.likely)) == e.right for e, a in zip(examples, asked, strict=True)]


class ChoiceTask(Task):
    """A task that asks which of some endings is the likeliest."""

    def requests(self, example: Choice, reader: Reader) -> list[Request]:
        """Ask how likely each ending is after the context."""
        return [reader.likelihood(example.context, ending) for ending in example.endings]


class HellaSwag(ChoiceTask):
    """HellaSwag asks what happens next, with four endings to choose from (Zellers et al. 2019)."""

    def read(self, path: Path) -> list[Choice]:
        """Read `hellaswag_val.jsonl`; the test set has no labels."""
        keys = ("activity_label", "ctx_a", "ctx_b", "endings", "label")
        return [_hellaswag(each) for each in json_lines(only_file(path, "hellaswag_val*.jsonl"), *keys)]

    def scores(self, examples: Sequence[Choice], asked: Sequence[Asked], reader: Reader) -> list[Score]:
        """The accuracy by the likelihood of the whole ending, and by the likelihood per character."""
        return [
            mean_score(
                "accuracy",
                chosen(examples, asked),
                "the ending with the largest log-likelihood after `activity: context`",
                published("hellaswag"),
            ),
            mean_score(
                "accuracy by length",
                chosen(examples, asked, by_length=True),
                "the ending with the largest log-likelihood per character",
                published("hellaswag by length"),
            ),
        ]


class StoryCloze(ChoiceTask):
    """StoryCloze asks which of two sentences ends a story of four (Mostafazadeh et al. 2016)."""

    def read(self, path: Path) -> list[Choice]:
        """Read the CSV file of the Story Cloze Test, with labels."""
        story = [f"InputSentence{i}" for i in (1, 2, 3, 4)]
        quiz = ["RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2"]
        rows = csv_rows(only_file(path, "*.csv"), *story, *quiz, "AnswerRightEnding")
        return [
            Choice(
                " ".join(row[column].strip() for column in story),
                tuple(" " + row[column].strip() for column in quiz),
                _label(row["AnswerRightEnding"], ("1", "2")),
            )
            for row in rows
        ]

    def scores(self, examples: Sequence[Choice], asked: Sequence[Asked], reader: Reader) -> list[Score]:
        """The accuracy by the likelihood of the whole ending, and by the likelihood per character."""
        return [
            mean_score("accuracy", chosen(examples, asked), "the ending with the larger log-likelihood"),
            mean_score(
                "accuracy by length",
                chosen(examples, asked, by_length=True),
                "the ending with the larger log-likelihood per character",
            ),
        ]


def _hellaswag(found: dict[str, object]) -> Choice:
    context = f"{found['activity_label']}: {found['ctx_a']} {str(found['ctx_b']).capitalize()}"
    endings = found["endings"]
    if not isinstance(endings, list) or not endings:
        raise DataError(f"'endings' of HellaSwag is a list of texts, not {endings!r}")
    known = [str(i) for i in range(len(endings))]
    return Choice(_clean(context), tuple(" " + _clean(str(e)) for e in endings), _label(str(found["label"]), known))


def _clean(text: str) -> str:
    """Remove the marks in the examples from WikiHow, `[title]` and the like."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _label(label: str, known: Sequence[str]) -> int:
    if label not in known:
        raise DataError(f"an example's label is {label!r}, none of {', '.join(known)}; the test set comes without")
    return known.index(label)
