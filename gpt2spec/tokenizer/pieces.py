"""This module finds the places where a text may be divided without changing its tokens.

GPT-2 first splits a text by a pattern and then encodes every match by itself. No match continues from a
non-space into a space: spaces only begin a match. And a match that ends before a space depends on no more than
the character after it. So the tokens of a text are those of its pieces if every cut is between a non-space and
a space (or other white space).

Source of the pattern: `src/encoder.py` of github.com/openai/gpt-2.
"""

import itertools
import re
from collections.abc import Iterable, Iterator

WHITE_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007"
    "\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
r"""The characters that `\s` matches in the pattern: Unicode's White_Space. (`str.isspace` adds U+001C to U+001F.)"""

LONG_RUN = 10_000
_LONG_RUN = re.compile(f"[{WHITE_SPACE}]{{{LONG_RUN},}}")


def last_boundary(text: str) -> int:
    """The index of the last white space after a non-space, where `text` may be divided; 0 if there is none."""
    last = max(text.rfind(" "), text.rfind("\n"))
    return len(text[: last + 1].rstrip(WHITE_SPACE))


def split_safely(chunks: Iterable[str]) -> Iterator[str]:
    """Divide a text into pieces that can be encoded one by one: their ids, joined, are the ids of the whole.

    It holds one chunk in memory, or the longest stretch of text without a boundary where that is longer.
    """
    held: list[str] = []
    for chunk in chunks:
        cut = last_boundary(chunk)
        if cut:
            yield "".join([*held, chunk[:cut]])
            held = []
        held.append(chunk[cut:])
    rest = "".join(held)
    if rest:
        yield rest


def split_long_runs(text: str) -> list[str]:
    r"""Divide `text` one character before the end of every very long run of white space.

    tiktoken's regular expression engine fails on a run of about a million characters. Where something else
    follows a run, the run's last character belongs to it, and the rest is one match (`\s+(?!\S)`). After this
    cut, the rest ends its piece and is one match again.
    """
    # A run of twice the length contains a whole block; `isspace` on a block of anything else ends at once.
    if not any(text[i : i + LONG_RUN].isspace() for i in range(0, len(text), LONG_RUN)):
        return [text]
    cuts = [0, *(run.end() - 1 for run in _LONG_RUN.finditer(text) if run.end() < len(text)), len(text)]
    return [text[start:stop] for start, stop in itertools.pairwise(cuts)]
