"""The Children's Book Test asks which of ten words is missing in a sentence after twenty others (Hill et al. 2016)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt2spec.errors import DataError
from gpt2spec.tasks.choices import Choice, ChoiceTask, chosen
from gpt2spec.tasks.detokenise import PTB, Style
from gpt2spec.tasks.published import published
from gpt2spec.tasks.reader import Reader
from gpt2spec.tasks.requests import Asked
from gpt2spec.tasks.sources import only_file, read_text
from gpt2spec.tasks.task import Score, mean_score

BLANK = "XXXXX"
SENTENCES = 20

_STYLE = Style(contractions=PTB.contractions)
_WORDS = {"``": '"', "''": '"', "-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]"}


@dataclass(frozen=True)
class ChildrensBooks(ChoiceTask):
    """The test for one kind of word: `kind` is "CN" for common nouns, "NE" for named entities."""

    kind: str

    def read(self, path: Path) -> list[Choice]:
        """Read `cbtest_CN_valid_2000ex.txt` or the like: blocks of 21 numbered lines, the last with the choices."""
        path = only_file(path, f"cbtest_{self.kind}_valid*.txt", f"cbtest_{self.kind}_test*.txt")
        blocks = [block.strip().split("\n") for block in read_text(path).split("\n\n") if block.strip()]
        return [_example(block, path) for block in blocks]

    def scores(self, examples: Sequence[Choice], asked: Sequence[Asked], reader: Reader) -> list[Score]:
        """Accuracy."""
        protocol = "de-tokenised; the word with the largest log-likelihood of it and the rest of its sentence"
        return [mean_score("accuracy", chosen(examples, asked), protocol, published(f"cbt-{self.kind.lower()}"))]


def common_nouns() -> ChildrensBooks:
    """The test in which a common noun is missing."""
    return ChildrensBooks("CN")


def named_entities() -> ChildrensBooks:
    """The test in which a name is missing."""
    return ChildrensBooks("NE")


def _example(lines: list[str], path: Path) -> Choice:
    texts = [line.partition(" ")[2] for line in lines]
    query, _, choices = texts[-1].partition("\t")
    answer, _, candidates = choices.partition("\t")
    words = candidates.strip().split("|")
    if len(lines) != SENTENCES + 1 or BLANK not in query.split() or answer not in words:
        raise DataError(f"{path} is no file of the Children's Book Test: a block ends in {lines[-1][:60]!r}")
    passage = "".join(natural(text.split()) + " " for text in texts[:-1])
    before, *endings = _endings(query.split(), words)
    return Choice(passage + before, tuple(endings), words.index(answer))


def _endings(query: Sequence[str], words: Sequence[str]) -> list[str]:
    """The beginning that all sentences share, then the end of each, which begins with the space between them."""
    place = query.index(BLANK)
    before = natural(query[:place])
    filled = [natural([*query[:place], word, *query[place + 1 :]]) for word in words]
    if not all(sentence.startswith(before) for sentence in filled):
        before = ""
    return [before, *(sentence[len(before) :] for sentence in filled)]


def natural(words: Sequence[str]) -> str:
    """Write words in the Penn Treebank's style as people would write them."""
    return _STYLE.join([_WORDS.get(word, word) for word in words])
