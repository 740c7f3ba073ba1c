"""LAMBADA asks for the last word of a passage, which people can guess only from all of it (Paperno et al. 2016)."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from gpt2spec.errors import DataError
from gpt2spec.metrics.likelihood import exponential
from gpt2spec.metrics.uncertainty import perplexity_standard_error, standard_error
from gpt2spec.tasks.published import published
from gpt2spec.tasks.reader import Reader
from gpt2spec.tasks.requests import Asked, Request
from gpt2spec.tasks.sources import checked, only_file, read_text
from gpt2spec.tasks.task import Score, Task, mean_score
from gpt2spec.tokenizer import Tokenizer

_WORDS = """
    a an the i me my mine myself you your yours yourself he him his himself she her hers herself it its itself
    we us our ours ourselves they them their theirs themselves this that these those who whom whose which what
    some any no none each every either neither both all few many much more most other another such own same
    am is are was were be been being have has had having do does did doing
    will would shall should can could may might must ought
    of in on at by for with about against between into through during before after above below to from up down
    out off over under than as and but or nor if because while until unless though although so since like
    not only very too just again further then once here there when where why how now also ever never still even
"""
STOP_WORDS = frozenset(_WORDS.split())
"""Words that can follow in the middle of a passage but do not end one."""

_QUOTES = str.maketrans({"“": '"', "”": '"'})


@dataclass(frozen=True)
class LastWord:
    """A passage without its last word, and that word with the space before it."""

    passage: str
    word: str


class Lambada(Task):
    """LAMBADA, scored by the perplexity of the last word and by how often it is guessed."""

    def read(self, path: Path) -> list[LastWord]:
        """Read the passages, one per line: JSON lines with "text", or plain text."""
        path = only_file(path, "lambada_test*.jsonl", "lambada_test_plain_text.txt")
        return [_example(text, path) for text in _passages(path)]

    def requests(self, example: LastWord, reader: Reader) -> list[Request]:
        """Ask how likely the last word is after the rest."""
        return [reader.likelihood(example.passage, example.word, stop_tokens(reader.tokenizer))]

    def scores(self, examples: Sequence[LastWord], asked: Sequence[Asked], reader: Reader) -> list[Score]:
        """The perplexity of words; the accuracy of words, with and without stop words, and of tokens."""
        answers = [each.likely[0] for each in asked]
        nats = [-answer.total for answer in answers]
        perplexity = exponential(math.fsum(nats) / len(nats))
        whole = "a line feed before the passage, quotation marks straight; "
        return [
            Score(
                "perplexity of the last word",
                perplexity,
                perplexity_standard_error(perplexity, standard_error(nats)),
                len(examples),
                whole + "nats over words",
                published("lambada perplexity"),
            ),
            mean_score(
                "accuracy of the last word",
                [all(answer.greedy) for answer in answers],
                whole + "each of its tokens is the likeliest",
                published("lambada last word"),
            ),
            mean_score(
                "accuracy of the last word, no stop words",
                np.array([answer.filtered and all(answer.greedy[1:]) for answer in answers]),
                whole + "the same, its first token among those that are no stop word",
            ),
            mean_score(
                "accuracy of the last token",
                [answer.greedy[-1] for answer in answers],
                whole + "the last token after all others",
                published("lambada last token"),
            ),
        ]


@lru_cache(maxsize=4)
def stop_tokens(tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that consist of a space and a stop word, in upper or lower case."""
    pieces = tokenizer.decode_each(range(tokenizer.vocab_size))
    return frozenset(
        token
        for token, piece in enumerate(pieces)
        if piece.startswith(b" ") and piece[1:].decode("utf-8", errors="replace").lower() in STOP_WORDS
    )


def _passages(path: Path) -> list[str]:
    lines = [line for line in read_text(path).split("\n") if line.strip()]
    if path.suffix == ".txt":
        return lines
    try:
        return [str(checked(json.loads(line), f"a line of {path}", "text")["text"]) for line in lines]
    except ValueError as error:
        raise DataError(f"{path} has a line that is not JSON: {error}") from error


def _example(text: str, path: Path) -> LastWord:
    passage, space, word = text.translate(_QUOTES).replace("``", '"').replace("''", '"').strip().rpartition(" ")
    if not space:
        raise DataError(f"{path} has a passage of one word: {text[:40]!r}")
    return LastWord("\n" + passage, space + word)
