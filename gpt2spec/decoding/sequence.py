"""A text that grows token by token, and its pieces and results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gpt2spec.decoding.options import GenerateOptions
from gpt2spec.decoding.stops import StopStrings
from gpt2spec.random import uniforms
from gpt2spec.tokenizer import StreamDecoder, Tokenizer

FinishReason = Literal["stop", "length"]
"""A text ended at a stop token or stop string, or because it reached `max_new_tokens`."""


@dataclass(frozen=True)
class Choice:
    """A chosen token with its probability under the model itself, before any penalty, temperature or filter.

    Attributes:
        token: the id of the token.
        logprob: the natural logarithm of its probability.
        alternatives: the likeliest tokens with their log-probabilities, as many as were asked for.
    """

    token: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """What one step added to one text.

    Attributes:
        prompt: the number of the prompt, counted from 0.
        sample: the number of its continuation, counted from 0.
        text: text that is now final, possibly none: incomplete characters and beginnings of stop strings are held
            back. It is always empty without a tokenizer.
        choice: the new token; None for a stop token.
        finish_reason: why the text ended, in its last piece; otherwise None.
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
        prompt: the number of the prompt, counted from 0.
        sample: the number of the continuation, counted from 0.
        tokens: the new tokens, without a stop token at the end, but with those that spell a stop string.
        logprobs: the log-probability of each token under the model itself.
        finish_reason: "stop" at a stop token or stop string, "length" at `max_new_tokens`.
        text: the text of the new tokens before any stop string; None without a tokenizer.
        alternatives: for each step, the likeliest tokens with their log-probabilities, as many as were asked for.
        score: the score by which the results of a beam search are ordered; otherwise None.
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
    """Decodes new tokens, up to any stop string, into text that is final. Without a tokenizer it gives no text."""

    def __init__(self, tokenizer: Tokenizer | None, stops: Sequence[str]) -> None:
        self._decoder = None if tokenizer is None else StreamDecoder(tokenizer)
        self._stops = StopStrings(stops)

    @property
    def stopped(self) -> bool:
        """Whether there was a stop string."""
        return self._stops.found

    def feed(self, token: int) -> str:
        """The text that one more token makes final."""
        return "" if self._decoder is None else self._stops.feed(self._decoder.feed(token))

    def finish(self) -> str:
        """The text that was held back, now that no more tokens come."""
        rest = "" if self._decoder is None else self._stops.feed(self._decoder.finish())
        return rest + self._stops.finish()


class GrowingText:
    """A prompt with the tokens that were added so far.

    Attributes:
        ids: the prompt's tokens and the new ones.
        draws: a uniform number for each new token.
        finished: whether the text has ended.
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
        """Texts with the same prompt differ in `stream`, which selects their random numbers."""
        self.prompt, self.sample = prompt, sample
        self.ids = [int(token) for token in ids]
        self.draws = uniforms(options.seed, "sampling", stream, *self.ids, count=options.max_new_tokens)
        self.finished = False
        self._room = options.max_new_tokens
        self._stop_tokens = frozenset(options.stop_tokens)
        self._text = NewText(tokenizer, options.stop)
        self._begin = 0

    def window(self, n_ctx: int) -> list[int]:
        """The tokens to read: all of them, or, once they pass `n_ctx`, those from the last half of the context on."""
        if len(self.ids) - self._begin > n_ctx:
            self._begin = len(self.ids) - max(1, n_ctx // 2)
        return self.ids[self._begin :]

    def add(self, choice: Choice) -> Piece:
        """Add the next token. Returns what it adds to the text."""
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
    """Make a `Generation` from all pieces of one text, in order."""
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
