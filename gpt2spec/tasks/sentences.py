"""This module roughly divides texts into sentences, after a full stop, question or exclamation mark and a space."""

import re

_END = re.compile(r"""(?<=[.!?])["')\]\u201d\u2019]*\s+|\s*\n+\s*""")


def sentences(text: str) -> list[str]:
    """The sentences of a text. The end of a line also ends a sentence."""
    ends = [(match.start(), match.end()) for match in _END.finditer(text)]
    starts = [0, *(end for _, end in ends)]
    stops = [*(end for _, end in ends), len(text)]
    return [found for start, stop in zip(starts, stops, strict=True) if (found := text[start:stop].strip())]


def first_sentences(text: str, count: int) -> str:
    """The first `count` sentences, joined by spaces."""
    return " ".join(sentences(text)[:count])
