"""Winograd schemas ask whom a pronoun means (Levesque et al. 2012); they are scored as by Trinh & Le (2018).

Each candidate takes the pronoun's place. Full scoring compares the likelihoods of the whole sentences; partial scoring
compares those of the text after the candidate, given everything up to it.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt2spec.errors import DataError
from gpt2spec.tasks.choices import best
from gpt2spec.tasks.published import published
from gpt2spec.tasks.reader import Reader
from gpt2spec.tasks.requests import Asked, Request
from gpt2spec.tasks.sources import only_file, read_text
from gpt2spec.tasks.task import Score, Task, mean_score

MASK = "[MASK]"
COUNT = 273
"""Scores are reported for the first 273 schemas of the collection."""

_POSSESSIVE = ("his", "its", "their", "my", "your", "our")
_LOWERED = ("The", "A", "An", "My", "His", "Her", "Its", "Our", "Their", "Some", "This", "That")


@dataclass(frozen=True)
class Schema:
    """A text around a pronoun, the candidates for its place, and the right one."""

    before: str
    after: str
    candidates: tuple[str, ...]
    right: int

    def beginning(self, candidate: str) -> str:
        """The text up to the candidate, which is in lower case within a sentence and in upper case at its start."""
        first, space, rest = candidate.partition(" ")
        if not self.before or self.before[-1] in ".!?":
            first = first[:1].upper() + first[1:]
        elif first in _LOWERED:
            first = first.lower()
        return f"{self.before} {first}{space}{rest}".lstrip()

    def ending(self) -> str:
        """The text after the candidate, with a space before it unless it begins with punctuation."""
        return self.after if self.after[:1] in tuple(",.;:!?'") else " " + self.after


class Winograd(Task):
    """Winograd schemas, scored by accuracy with full and with partial scoring."""

    def read(self, path: Path) -> list[Schema]:
        """Read the authors' `WSCollection.xml`, or blocks of lines: text with [MASK], [MASK], candidates, answer."""
        path = only_file(path, "WSCollection.xml", "wsc273.txt")
        text = read_text(path)
        return (_from_xml(text, path) if path.suffix == ".xml" else _from_blocks(text, path))[:COUNT]

    def requests(self, example: Schema, reader: Reader) -> list[Request]:
        """Ask for the likelihood of the whole text with each candidate, and of its ending."""
        asked: list[Request] = []
        for candidate in example.candidates:
            beginning, ending = example.beginning(candidate), example.ending()
            asked += [reader.likelihood("", beginning + ending), reader.likelihood(beginning, ending)]
        return asked

    def scores(self, examples: Sequence[Schema], asked: Sequence[Asked], reader: Reader) -> list[Score]:
        """The accuracy by partial scoring, which is higher and comes first, and by full scoring."""
        full, partial = (
            [best([a.total for a in each.likely[i::2]]) == e.right for e, each in zip(examples, asked, strict=True)]
            for i in (0, 1)
        )
        return [
            mean_score(
                "accuracy, partial scoring",
                partial,
                "the candidate after which the rest of the text is likeliest",
                published("winograd"),
            ),
            mean_score(
                "accuracy, full scoring",
                full,
                "the candidate with which the whole text is likeliest",
                published("winograd"),
            ),
        ]


def _from_blocks(text: str, path: Path) -> list[Schema]:
    schemas = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        lines = [line.strip() for line in block.strip().split("\n")]
        if lines == [""]:
            continue
        candidates = tuple(each.strip() for each in lines[2].split(",")) if len(lines) == 4 else ()
        before, mask, after = lines[0].partition(MASK)
        if not mask or lines[-1] not in candidates:
            raise DataError(f"{path} has a block that is no Winograd schema: {lines[0][:60]!r}")
        schemas.append(Schema(_plain(before), _plain(after), candidates, candidates.index(lines[3])))
    return schemas


def _from_xml(text: str, path: Path) -> list[Schema]:
    try:
        return [_from_element(schema) for schema in ElementTree.fromstring(text).iter("schema")]
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path} is no collection of Winograd schemas: {error}") from error


def _from_element(schema: ElementTree.Element) -> Schema:
    before, pronoun, after = (_plain(schema.findtext(f"text/{part}") or "") for part in ("txt1", "pron", "txt2"))
    candidates = [_plain(answer.text or "") for answer in schema.findall("answers/answer")]
    right = "ABCDE".index(_plain(schema.findtext("correctAnswer") or "?")[:1])
    if right >= len(candidates) or not pronoun:
        raise ValueError("a schema has no pronoun, or no answer that is right")
    if pronoun.lower() in _POSSESSIVE:
        candidates = [each + "'s" for each in candidates]
    return Schema(before, after, tuple(candidates), right)


def _plain(text: str) -> str:
    return " ".join(text.split())
