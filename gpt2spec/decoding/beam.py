"""Beam search looks for the likeliest sequences rather than the likeliest next tokens.

A score is a sum of log-probabilities in float64, divided by a power of the number of new tokens (see
`GenerateOptions.length_penalty`). Among equal scores, the continuation of the better beam comes first, then the lowest
id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from gpt2spec.backend import Backend
from gpt2spec.config import GPT2Config
from gpt2spec.decoding.cache import Rows
from gpt2spec.decoding.chooser import NOT_FINITE
from gpt2spec.decoding.options import GenerateOptions
from gpt2spec.decoding.sampling import likeliest, log_probabilities
from gpt2spec.decoding.sequence import FinishReason, Generation, NewText
from gpt2spec.errors import InputError
from gpt2spec.tokenizer import Tokenizer
from gpt2spec.tree import Tree


@dataclass(frozen=True)
class Beam:
    """A sequence of new tokens, the log-probability of each, and their sum."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    total: float = 0.0
    finish_reason: FinishReason | None = None


@dataclass
class Search:
    """The search for one prompt.

    Attributes:
        live: the beams that still grow, the best first.
        finished: the beams that have ended, with their scores, the best first; at most `options.beams`.
        done: whether no better beam can come.
    """

    prompt: int
    options: GenerateOptions
    tokenizer: Tokenizer | None
    live: list[Beam] = field(default_factory=lambda: [Beam()])
    finished: list[tuple[float, Beam]] = field(default_factory=list)
    done: bool = False

    def advance(self, logprobs: np.ndarray, step: int) -> list[int]:
        """Replace the live beams by their best continuations, given log-probabilities [live, V] of token `step`.

        Returns the index of each new beam's parent among the old beams.
        """
        totals = np.array([[beam.total] for beam in self.live]) + logprobs
        # Even if every beam ended with every stop token, so many candidates leave `beams` that do not end.
        candidates = likeliest(totals.ravel(), self.options.beams * (2 + len(self.options.stop_tokens)))
        live, parents = [], []
        for rank, (parent, token) in enumerate(divmod(int(i), logprobs.shape[1]) for i in candidates):
            beam = self._longer(self.live[parent], token, float(logprobs[parent, token]), step)
            if beam.finish_reason is None:
                live.append(beam)
                parents.append(parent)
            elif rank < self.options.beams:
                self.finished.append((self._score(beam.total, len(beam.tokens)), beam))
        self.finished = sorted(self.finished, key=lambda found: -found[0])[: self.options.beams]
        self.live = live[: self.options.beams]
        self.done = not self.live or self._decided(step)
        return parents[: self.options.beams]

    def results(self) -> list[Generation]:
        """The best beams, as many as samples were asked for."""
        return [self._generation(i, *found) for i, found in enumerate(self.finished[: self.options.samples])]

    def _longer(self, beam: Beam, token: int, logprob: float, step: int) -> Beam:
        tokens = (*beam.tokens, token)
        reason: FinishReason | None = "length" if step + 1 == self.options.max_new_tokens else None
        if token in self.options.stop_tokens or (self.options.stop and self._read(tokens)[0].stopped):
            reason = "stop"
        return Beam(tokens, (*beam.logprobs, logprob), beam.total + logprob, reason)

    def _read(self, tokens: Sequence[int]) -> tuple[NewText, str]:
        """The text of tokens as far as it is final, with the decoder that holds the rest."""
        new = NewText(self.tokenizer, self.options.stop)
        return new, "".join([new.feed(token) for token in tokens])

    def _score(self, total: float, length: int) -> float:
        return total / length**self.options.length_penalty

    def _decided(self, step: int) -> bool:
        """Whether no live beam can still be better than the finished ones."""
        if len(self.finished) < self.options.beams:
            return False
        if self.options.early_stopping:
            return True
        length = self.options.max_new_tokens if self.options.length_penalty > 0.0 else step + 1
        return self._score(self.live[0].total, length) <= self.finished[-1][0]

    def _generation(self, sample: int, score: float, beam: Beam) -> Generation:
        assert beam.finish_reason is not None
        count = len(beam.tokens) - (beam.tokens[-1] in self.options.stop_tokens)
        tokens = list(beam.tokens[:count])
        new, text = self._read(tokens)
        text += new.finish()
        reason: FinishReason = "stop" if new.stopped else beam.finish_reason
        logprobs = list(beam.logprobs[:count])
        return Generation(
            self.prompt, sample, tokens, logprobs, reason, None if self.tokenizer is None else text, None, score
        )


def search(
    backend: Backend,
    config: GPT2Config,
    params: Tree,
    prompts: Sequence[tuple[int, Sequence[int]]],
    options: GenerateOptions,
    tokenizer: Tokenizer | None,
) -> Iterator[list[Generation]]:
    """Yield the results for each numbered prompt as soon as its search and those before it are done.

    Prompts are read once; their beams begin with copies of the cache, and are reordered on the device at every token.
    """
    searches = [Search(number, options, tokenizer) for number, _ in prompts]
    capacity = max(len(prompt) for _, prompt in prompts) + options.max_new_tokens
    rows = Rows(backend, config, params, [prompt for _, prompt in prompts], capacity)
    yielded = 0
    for step in range(options.max_new_tokens):
        logprobs = log_probabilities(backend.to_numpy(rows.logits))
        if np.isnan(logprobs).any():
            raise InputError(NOT_FINITE)
        parents: list[int] = []
        tokens: list[int] = []
        first = 0
        for found in searches:
            count = 0 if found.done else len(found.live)
            if count:
                chosen = found.advance(logprobs[first : first + count], step)
                if not found.done:
                    parents += [first + parent for parent in chosen]
                    tokens += [beam.tokens[-1] for beam in found.live]
            first += count
        while yielded < len(searches) and searches[yielded].done:
            yield searches[yielded].results()
            yielded += 1
        if yielded == len(searches):
            return
        rows.select(parents)
        rows.append(backend.put(np.array(tokens, np.int32)))
