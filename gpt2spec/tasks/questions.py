"""Natural Questions (Kwiatkowski et al. 2019) and TriviaQA (Joshi et al. 2017) ask questions without a passage."""

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2spec.errors import DataError
from gpt2spec.metrics.answers import exact_match, most_confident, normalised
from gpt2spec.tasks.published import published
from gpt2spec.tasks.reader import Reader
from gpt2spec.tasks.requests import Asked, Request
from gpt2spec.tasks.sources import json_file, json_lines, only_file
from gpt2spec.tasks.task import Published, Score, Task, mean_score

EXAMPLES = (
    ("what colour do you get if you mix blue and yellow", "green"),
    ("who wrote the play hamlet", "William Shakespeare"),
    ("how many days are there in a leap year", "366"),
    ("what is the largest planet of the solar system", "Jupiter"),
    ("in which year did the second world war end", "1945"),
)
"""Examples of our own, shown before every question, so that the model gives short answers."""
MAX_NEW_TOKENS = 24
CONFIDENT = 0.01

_SHOWN = "".join(f"Q: {question}?\nA: {answer}\n" for question, answer in EXAMPLES)
_TRIVIA_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "\u2018\u2019\u00b4", " "))


@dataclass(frozen=True)
class Question:
    """A question and all right answers."""

    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Questions(Task):
    """A set of questions, scored by exact match of all answers and of the most confident ones.

    Attributes:
        files: patterns of the name of its file.
        find: reads the questions of a file.
        normalise: is applied to answers before they are compared.
        published: the published scores of all answers and of the most confident ones.
    """

    files: tuple[str, ...]
    find: Callable[[Path], list[Question]]
    normalise: Callable[[str], str]
    published: tuple[Published | None, Published | None] = (None, None)

    def read(self, path: Path) -> list[Question]:
        """Read the questions."""
        path = only_file(path, *self.files)
        try:
            return self.find(path)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is of another form: {type(error).__name__} {error}") from error

    def requests(self, example: Question, reader: Reader) -> list[Request]:
        """Ask for the answer after the examples and the question."""
        return [reader.continuation(f"{_SHOWN}Q: {example.text}?\nA:", MAX_NEW_TOKENS, stop=("\n",))]

    def scores(self, examples: Sequence[Question], asked: Sequence[Asked], reader: Reader) -> list[Score]:
        """The exact match of all answers, and of the hundredth that the model holds most likely."""
        made = [each.texts[0] for each in asked]
        right = [
            exact_match(answer.text, example.answers, self.normalise)
            for answer, example in zip(made, examples, strict=True)
        ]
        sure = most_confident([answer.logprob for answer in made], CONFIDENT)
        protocol = f"{len(EXAMPLES)} questions with answers, then the question; greedy, up to the end of the line"
        return [
            mean_score("exact match", right, protocol, self.published[0]),
            mean_score(
                "exact match, most confident 1 %",
                [right[i] for i in sure],
                f"{protocol}; the answers with the largest log-likelihood",
                self.published[1],
            ),
        ]


def normalised_trivia(answer: str) -> str:
    """The normalised answer by TriviaQA's rules, in which punctuation and underscores become spaces."""
    words = answer.lower().translate(_TRIVIA_PUNCTUATION)
    return " ".join(re.sub(r"\b(?:a|an|the)\b", " ", words).split())


def natural_questions() -> Questions:
    """The open form of Natural Questions: JSON lines with "question" and "answer", a list."""
    return Questions(
        ("NQ-open*.jsonl", "*.jsonl"), _natural, normalised, (published("nq"), published("nq most confident"))
    )


def trivia_qa() -> Questions:
    """TriviaQA's JSON files of the unfiltered, web or Wikipedia questions, without the evidence."""
    return Questions(("unfiltered-web-dev.json", "*dev*.json"), _trivia, normalised_trivia)


def _natural(path: Path) -> list[Question]:
    found = json_lines(path, "question", "answer")
    return [Question(_plain(each["question"]), tuple(map(str, each["answer"]))) for each in found]


def _trivia(path: Path) -> list[Question]:
    return [Question(_plain(each["Question"]), _aliases(each["Answer"])) for each in json_file(path, "Data")["Data"]]


def _aliases(answer: dict[str, Any]) -> tuple[str, ...]:
    return (answer["Value"], *answer.get("Aliases", ()), *answer.get("NormalizedAliases", ()))


def _plain(question: str) -> str:
    return question.strip().rstrip("?").rstrip()
