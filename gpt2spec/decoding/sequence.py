"""One text that grows token by token, and what is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gpt2spec.decoding.options import GenerateOptions
from gpt2spec.decoding.stops import StopStrings
from gpt2spec.random import uniforms
from gpt2spec.tokenizer import StreamDecoder, Tokenizer

FinishReason = Literal["stop", "length"]
"""Why a text ended: at a stop token or stop string, or because it has all tokens that were asked for."""


@dataclass(frozen=True)
class Choice:
    """A token and how likely the model itself holds it, before any penalty, temperature or filter.

    Attributes:
        token: its id.
        logprob: natural logarithm of its probability.
        alternatives: as many of the likeliest tokens as were asked for, with their log-probabilities.
    """

    token: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """What one step added to one text.

    Attributes:
        prompt: which prompt is continued, counted from 0.
        sample: which of its continuations this is, counted from 0.
        text: text that is final now, maybe none: characters whose bytes are incomplete and beginnings of stop
            strings are held back. Without a tokenizer, always empty.
        choice: the new token; None for a stop token.
        finish_reason: in the last piece of a text, why it is the last.
    """

    prompt: int
    sample: int
    text: str
    choice: Choice | None
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Generation:
    """One continuation of a prompt.

    Attributes:
        prompt: which prompt, counted from 0.
        sample: which of its continuations, counted from 0.
        tokens: the new tokens, without a stop token at the end, but with those that spell a stop string.
        logprobs: the log-probability of each, by the model itself.
        finish_reason: "stop" at a stop token or stop string, "length" when all tokens asked for are there.
        text: the new tokens' text before any stop string; None without a tokenizer.
        alternatives: for each token the likeliest ones with their log-probabilities, as many as were asked for.
        score: of a beam search, what its results are ordered by.
    """

    prompt: int
    sample: int
    tokens: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    text: str | None = None
    alternatives: list[tuple[tuple[int, float], ...]] | None = None
    score: float | None = None


class NewText:
    """The text of new tokens up to any stop string, as far as it is final. Without a tokenizer there is none."""

    def __init__(self, tokenizer: Tokenizer | None, stops: Sequence[str]) -> None:
        self._decoder = None if tokenizer is None else StreamDecoder(tokenizer)
        self._stops = StopStrings(stops)

    @property
    def stopped(self) -> bool:
        """There was a stop string."""
        return self._stops.found

    def feed(self, token: int) -> str:
        """What is final with one more token."""
        return "" if self._decoder is None else self._stops.feed(self._decoder.feed(token))

    def finish(self) -> str:
        """What was still held back: no more tokens are to come."""
        rest = "" if self._decoder is None else self._stops.feed(self._decoder.finish())
        return rest + self._stops.finish()


class GrowingText:
    """A prompt and what was made of it so far.

    Attributes:
        ids: the prompt's tokens and the new ones.
        draws: a uniform number for each token that may come.
        finished: no more tokens are wanted.
    """

    def __init__(
        self,
        prompt: int,
        sample: int,
        ids: Sequence[int],
        stream: int,
        options: GenerateOptions,
        tokenizer: Tokenizer | None,
    ) -> None:
        """`stream` tells apart texts with the same prompt: each has random numbers of its own."""
        self.prompt, self.sample = prompt, sample
        self.ids = [int(token) for token in ids]
        self.draws = uniforms(options.seed, "sampling", stream, *self.ids, count=options.max_new_tokens)
        self.finished = False
        self._room = options.max_new_tokens
        self._stop_tokens = frozenset(options.stop_tokens)
        self._text = NewText(tokenizer, options.stop)
        self._begin = 0

    def window(self, n_ctx: int) -> list[int]:
        """The tokens that are read: all, or, whenever those would pass `n_ctx`, the last half of it from then on."""
        if len(self.ids) - self._begin > n_ctx:
            self._begin = len(self.ids) - max(1, n_ctx // 2)
        return self.ids[self._begin :]

    def add(self, choice: Choice) -> Piece:
        """The next token, and what it adds to the text."""
        if choice.token in self._stop_tokens:
            self.finished = True
            return Piece(self.prompt, self.sample, self._text.finish(), None, "stop")
        self.ids.append(choice.token)
        self._room -= 1
        text = self._text.feed(choice.token)
        if self._room == 0:
            text += self._text.finish()
        reason: FinishReason | None = "stop" if self._text.stopped else "length" if self._room == 0 else None
        self.finished = reason is not None
        return Piece(self.prompt, self.sample, text, choice, reason)


def collect(pieces: Sequence[Piece], with_text: bool, with_alternatives: bool) -> Generation:
    """The whole continuation from all pieces of one text, in order."""
    choices = [piece.choice for piece in pieces if piece.choice is not None]
    last = pieces[-1]
    assert last.finish_reason is not None
    return Generation(
        last.prompt,
        last.sample,
        [choice.token for choice in choices],
        [choice.logprob for choice in choices],
        last.finish_reason,
        "".join(piece.text for piece in pieces) if with_text else None,
        [choice.alternatives for choice in choices] if with_alternatives else None,
    )
