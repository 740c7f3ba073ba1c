"""This module makes the validation split from the end of a text that is already encoded.

The tokens themselves say where lines end and how many characters there are, so nothing is read a second time, and
only the tokens at the cut are encoded again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpt2spec.data.manifest import ShardEntry
from gpt2spec.data.shards import ShardWriter, Tokens, read_shard
from gpt2spec.tokenizer import Tokenizer
from gpt2spec.tokenizer.vocabulary import characters_begun

_WINDOW = 1 << 14
_BLOCK = 1 << 20


class Cut(NamedTuple):
    """Where the text is divided: `before` and `after`, encoded anew, replace tokens `start` to `stop`.

    The tokens of `before` end the training split; those of `after` begin the validation split. Where the cut lies
    between two documents, the range and both texts are empty.
    """

    start: int
    stop: int
    before: str
    after: str


class CutOff(NamedTuple):
    """The shards that replace others when their end becomes the validation split.

    Attributes:
        head: the writer of the new shards that end the training split.
        tail: the writer of the validation split.
        kept: how many of the first shards stay as they are.
        change: how often each token occurs afterwards, less how often it occurred before: [V].
    """

    head: ShardWriter
    tail: ShardWriter
    kept: int
    change: np.ndarray


def cut_off_the_end(
    folder: Path,
    shards: list[ShardEntry],
    tokenizer: Tokenizer,
    val_fraction: float,
    characters: int,
    shard_tokens: int,
) -> CutOff:
    """Write the new shards beside the old ones, as `head_…` and `tail_…`; `find_cut` decides where."""
    tokens = Tokens(tuple(read_shard(folder / shard.file) for shard in shards), tokenizer.vocab_size)
    cut = find_cut(tokens, tokenizer, val_fraction, characters)
    head, tail = (ShardWriter(folder, name, shard_tokens, tokenizer.vocab_size) for name in ("head", "tail"))
    kept = cut.start // shard_tokens
    for block in blocks_between(tokens, kept * shard_tokens, cut.start):
        head.write(block)
    before = tokenizer.encode_to_numpy(cut.before).astype(np.uint16)
    after = tokenizer.encode_to_numpy(cut.after).astype(np.uint16)
    mark = np.full(1 if cut.after else 0, tokenizer.end_of_text, np.uint16)
    head.write(before)
    tail.write(np.concatenate([mark, after]))
    for block in blocks_between(tokens, cut.stop, len(tokens)):
        tail.write(block)
    head.close()
    tail.close()
    new, old = (
        np.bincount(ids, minlength=tokenizer.vocab_size)
        for ids in (np.concatenate([before, mark, after]), tokens.between(cut.start, cut.stop))
    )
    return CutOff(head, tail, kept, new - old)


def find_cut(tokens: Tokens, tokenizer: Tokenizer, val_fraction: float, characters: int) -> Cut:
    """Where the validation split begins, in `tokens` that decode to `characters` characters.

    The target is after the first `1 - val_fraction` of the characters. The cut is after the last line break before the
    target; in a document without one, at the start of the document. In the first document, which has to stay in
    training, it is after the last space before the target, or else exactly at the target.
    """
    target = round((1 - val_fraction) * characters)
    if target == 0:
        return Cut(0, 0, "", "")
    if target >= characters:
        return Cut(len(tokens), len(tokens), "", "")
    table = _Table(tokenizer)
    at, before = _token_of_character(tokens, table, target, characters)
    stop = table.boundary_after(tokens, at)
    after_target = before + int(table.characters[tokens.between(at, stop)].sum()) - target
    windows = list(_windows_before(tokens, table, stop))
    first_document = windows[-1].start <= 1
    for separator in "\n " if first_document else "\n":
        for window in windows:
            text = tokenizer.decode(tokens.between(window.start, window.stop).tolist())
            found = text.rfind(separator, 0, len(text) - after_target * (window.stop == stop))
            if found >= 0:
                return Cut(window.start, window.stop, text[: found + 1], text[found + 1 :])
    if not first_document:
        mark = windows[-1].start - 1
        return Cut(mark, mark, "", "")
    text = tokenizer.decode(tokens.between(windows[0].start, stop).tolist())
    return Cut(windows[0].start, stop, text[:-after_target], text[-after_target:])


def blocks_between(tokens: Tokens, start: int, stop: int) -> Iterator[np.ndarray]:
    """Tokens `start` to `stop`, as arrays of at most `_BLOCK` tokens."""
    return (tokens.between(i, min(stop, i + _BLOCK)) for i in range(start, stop, _BLOCK))


class _Table:
    """Properties of every token id: arrays [V]."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        each = tokenizer.decode_each(range(tokenizer.vocab_size))
        each[tokenizer.end_of_text] = b""
        self.end_of_text = tokenizer.end_of_text
        self.characters = np.array([characters_begun(data) for data in each])
        self._space_first = np.array([data[:1].isspace() for data in each])
        self._visible_last = np.array([data[-1:].isascii() and data[-1:].strip() != b"" for data in each])

    def boundary_after(self, tokens: Tokens, at: int) -> int:
        """The first place after token `at` where its document ends or can be divided (see `tokenizer.pieces`)."""
        for start in range(at, len(tokens), _WINDOW):
            ids = tokens.between(start, min(len(tokens), start + _WINDOW + 1))
            places = np.flatnonzero((ids[1:] == self.end_of_text) | self._can_be_cut(ids))
            if len(places):
                return start + 1 + int(places[0])
        return len(tokens)

    def window_before(self, tokens: Tokens, stop: int) -> tuple[range, bool]:
        """A range of tokens up to `stop` that can be encoded by itself, and whether its document begins with it."""
        start = stop
        while True:
            start = max(0, start - _WINDOW)
            ids = tokens.between(start, stop)
            marks = np.flatnonzero(ids == self.end_of_text)
            if len(marks):
                return range(start + int(marks[-1]) + 1, stop), True
            places = np.flatnonzero(self._can_be_cut(ids))
            if start == 0 or len(places):
                return range(start + 1 + int(places[0]) if start else 0, stop), start == 0

    def _can_be_cut(self, ids: np.ndarray) -> np.ndarray:
        """Whether a text can be divided before each token but the first: [n - 1]."""
        return self._visible_last[ids[:-1]] & self._space_first[ids[1:]]


def _windows_before(tokens: Tokens, table: _Table, stop: int) -> Iterator[range]:
    """The tokens of a document before `stop`, in ranges from the last to the first."""
    first = False
    while not first:
        window, first = table.window_before(tokens, stop)
        yield window
        stop = window.start


def _token_of_character(tokens: Tokens, table: _Table, number: int, characters: int) -> tuple[int, int]:
    """The token in which character `number`, counted from 0, begins; and how many characters begin before that token.

    The search starts from the end of the tokens, which decode to `characters` characters, because it is nearer.
    """
    stop, after = len(tokens), characters
    while True:
        start = max(0, stop - _BLOCK)
        begun = table.characters[tokens.between(start, stop)]
        before = after - int(begun.sum())
        if before <= number:
            ends = before + np.cumsum(begun)
            at = int(np.searchsorted(ends, number, side="right"))
            return start + at, int(ends[at] - begun[at])
        stop, after = start, before
