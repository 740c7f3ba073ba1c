"""CoQA asks questions in a conversation about a passage (Reddy et al. 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2spec.errors import DataError
from gpt2spec.metrics.answers import exact_match, leave_one_out, token_f1
from gpt2spec.tasks.published import published
from gpt2spec.tasks.reader import Reader
from gpt2spec.tasks.requests import Asked, Request
from gpt2spec.tasks.sources import json_file, only_file
from gpt2spec.tasks.task import Score, Task, mean_score

MAX_NEW_TOKENS = 32


@dataclass(frozen=True)
class Turn:
    """A question, the passage and the conversation before it, and people's answers."""

    passage: str
    conversation: str
    answers: tuple[str, ...]


class CoQA(Task):
    """CoQA, scored by F1 and exact match."""

    def read(self, path: Path) -> list[Turn]:
        """Read `coqa-dev-v1.0.json`."""
        path = only_file(path, "coqa-dev*.json")
        try:
            return [turn for each in json_file(path, "data")["data"] for turn in _turns(each)]
        except (KeyError, TypeError, IndexError) as error:
            raise DataError(f"{path} is no file of CoQA: {type(error).__name__} {error}") from error

    def requests(self, example: Turn, reader: Reader) -> list[Request]:
        """Ask for the answer after the passage, the conversation so far with people's answers, and `A:`."""
        prompt = f"\n\n{example.conversation}A:"
        return [reader.continuation(prompt, MAX_NEW_TOKENS, document=example.passage, stop=("\n",))]

    def scores(self, examples: Sequence[Turn], asked: Sequence[Asked], reader: Reader) -> list[Score]:
        """Compare each answer with people's, as CoQA's evaluation does."""
        made = [each.texts[0].text.strip() for each in asked]
        answered = [(answer, example.answers) for answer, example in zip(made, examples, strict=True)]
        protocol = "passage, conversation with people's answers, `A:`; greedy, up to the end of the line"
        return [
            mean_score("F1", [leave_one_out(token_f1, *pair) for pair in answered], protocol, published("coqa")),
            mean_score("exact match", [leave_one_out(exact_match, *pair) for pair in answered], protocol),
        ]


def _turns(document: dict[str, Any]) -> list[Turn]:
    conversation, turns = "", []
    others = document.get("additional_answers", {})
    for i, (question, answer) in enumerate(zip(document["questions"], document["answers"], strict=False)):
        asked = f"{conversation}Q: {question['input_text']}\n"
        answers = [answer["input_text"], *(others[key][i]["input_text"] for key in sorted(others))]
        turns.append(Turn(document["story"].strip(), asked, tuple(answers)))
        conversation = f"{asked}A: {answer['input_text']}\n"
    return turns
