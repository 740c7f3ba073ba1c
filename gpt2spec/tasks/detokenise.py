"""This module rewrites tokenised benchmark texts as people would write them, and undoes it without loss.

WikiText, PTB and One Billion Words have spaces before punctuation, `@-@` for a hyphen and the like, which a model of
ordinary text does not expect. GPT-2 was evaluated with "invertible de-tokenizers" (Radford et al. 2019, section 3.1):
because the original can be recovered, the probability of the new text is a probability of the original, and is scaled
to the original's number of tokens.

The rewriting is invertible by construction. Neighbouring words are joined only if `split_word` separates them again. A
mark precedes a single word that it would divide. A line that would still not be recovered is left as it is, after
another mark.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

WHOLE = "\u2060"
"""The word joiner, which begins a word that must not be divided."""
RAW = "\u2061"
"""A mark that begins a line that was left as it is."""

_ATOMS = {"@-@": "-", "@,@": ",", "@.@": "."}
"""WikiText's words for characters inside a word."""
_INFIX = re.compile(r"(?<=.)-(?=.)|(?<=\d)[.,](?=\d)")
_CLOSING = tuple(".,:;?!)]}%")
_OPENING = tuple("([{$£#")
_ABBREVIATION = re.compile(
    r"(?:[A-Z]|.*\..*|Mr|Mrs|Ms|Dr|St|Jr|Sr|vs|No|Vol|Gen|Col|Lt|Capt|Sgt|Maj|Rev|Prof|Co|Inc)\."
)


@dataclass(frozen=True)
class Style:
    """How a benchmark was tokenised.

    Attributes:
        pad: text at the beginning and end of every line that is not empty; an empty line consists of it.
        contractions: the ends of words that are words of their own.
        atoms: whether `@-@`, `@,@` and `@.@` stand for characters inside words.
        quotes: whether `"` is a word of its own.
    """

    pad: str = ""
    contractions: tuple[str, ...] = ("'s", "'t", "'d", "'m", "'re", "'ve", "'ll")
    atoms: bool = False
    quotes: bool = True

    def detokenise(self, text: str) -> str:
        """The text as people would write it. `tokenise` recovers the original, whatever the text."""
        *lines, last = text.split("\n")
        end = last and (RAW + last if last == self.pad else self._detokenise_line(last))
        return "\n".join([*map(self._detokenise_line, lines), end])

    def tokenise(self, text: str) -> str:
        """The inverse of `detokenise`."""
        *lines, last = text.split("\n")
        return "\n".join([*map(self._tokenise_line, lines), last and self._tokenise_line(last)])

    def join(self, words: Sequence[str]) -> str:
        """The words of one line as text, without spaces where people write none."""
        joined: list[str] = []
        group: list[str] = []
        open_quote = False
        for word in words:
            if not group or not self._glued(group[-1], word, open_quote) or not self._comes_back([*group, word]):
                joined += self._written(group)
                group = []
            group.append(word)
            open_quote ^= word == '"'
        return " ".join([*joined, *self._written(group)])

    def split_word(self, word: str) -> list[str]:
        """Divide the text between two spaces into the words that were joined in it."""
        if word.startswith(WHOLE):
            return [word[len(WHOLE) :]]
        if word.strip("=") == "":
            return list(word) or [word]
        before: list[str] = []
        after: list[str] = []
        while len(word) > 1 and word.startswith(self._opening):
            before.append(word[0])
            word = word[1:]
        while (end := self._ending(word)) and len(end) < len(word):
            after.insert(0, end)
            word = word[: -len(end)]
        return [*before, *self._inside(word), *after]

    @property
    def _opening(self) -> tuple[str, ...]:
        return (*_OPENING, '"') if self.quotes else _OPENING

    def _ending(self, word: str) -> str:
        """The end of a word that is a word of its own, a contraction or a closing character; empty if there is none."""
        closing = (*_CLOSING, '"') if self.quotes else _CLOSING
        if word.endswith(".") and _ABBREVIATION.fullmatch(word):
            return ""
        return next((end for end in (*self.contractions, *closing) if word.endswith(end)), "")

    def _inside(self, word: str) -> list[str]:
        if not self.atoms:
            return [word]
        words, last = [], 0
        for match in _INFIX.finditer(word):
            words += [word[last : match.start()], f"@{match[0]}@"]
            last = match.end()
        return [*words, word[last:]]

    def _glued(self, left: str, right: str, open_quote: bool) -> bool:
        """Whether people write no space between two words. `open_quote` says that a quotation is open after `left`."""
        if self.atoms and (left in _ATOMS or right in _ATOMS):
            return True
        if self.quotes and right == '"':
            return open_quote or left in _OPENING
        if self.quotes and left == '"' and open_quote:
            return True
        if left == right == "=":
            return True
        return left in _OPENING or right in _CLOSING or right in self.contractions

    def _comes_back(self, group: Sequence[str]) -> bool:
        if self.atoms and group[-1] in _ATOMS:
            return True  # the word that follows decides
        return self.split_word(self._spelled(group)) == list(group)

    def _spelled(self, group: Sequence[str]) -> str:
        return "".join(_ATOMS.get(word, word) if self.atoms else word for word in group)

    def _written(self, group: Sequence[str]) -> list[str]:
        """A group as one word if it can be divided again, otherwise its words, marked where they must be."""
        if not group or self.split_word(self._spelled(group)) == list(group):
            return [self._spelled(group)] if group else []
        return [word if self.split_word(word) == [word] else WHOLE + word for word in group]

    def _detokenise_line(self, line: str) -> str:
        if line == self.pad:
            return ""
        inner = line[len(self.pad) : len(line) - len(self.pad)]
        natural = self.join(inner.split(" "))
        return natural if self._tokenise_line(natural) == line else RAW + line

    def _tokenise_line(self, line: str) -> str:
        if line.startswith(RAW):
            return line[len(RAW) :]
        if not line:
            return self.pad
        words = [word for natural in line.split(" ") for word in self.split_word(natural)]
        return f"{self.pad}{' '.join(words)}{self.pad}"


WIKITEXT = Style(pad=" ", atoms=True)
PTB = Style(pad=" ", contractions=("n't", "'s", "'d", "'m", "'re", "'ve", "'ll"), quotes=False)
BILLION_WORDS = Style()
