"""This module chooses the next token of every row, on the host or, while nobody needs it there, on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from gpt2spec.backend import Backend
from gpt2spec.decoding import on_device, sampling
from gpt2spec.decoding.cache import Rows
from gpt2spec.decoding.options import GenerateOptions
from gpt2spec.decoding.sequence import Choice, GrowingText
from gpt2spec.errors import InputError
from gpt2spec.ops import Tensor

AHEAD = 32
"""So many tokens are chosen on the device before they are copied to the host, unless each is needed at once."""
NOT_FINITE = "the model's logits are not finite: its weights are damaged, or training has diverged"


class Chooser(Protocol):
    """Chooses the next tokens of several texts.

    Attributes:
        ahead: how many tokens are chosen before `choices` is called.
    """

    ahead: int

    def __call__(self, rows: Rows, step: int) -> Chosen:
        """The token number `step` of every text."""

    def choices(self, chosen: Sequence[Chosen]) -> list[list[Choice]]:
        """The choices of several steps, on the host: for each step, one for every text."""


@dataclass(frozen=True)
class Chosen:
    """The next token of every row.

    Attributes:
        tokens: int32 [B], on the device.
        details: what `choices` needs to know about them, in the chooser's own form.
    """

    tokens: Tensor
    details: Any


class OnHost:
    """Chooses in float64 whatever the backend, so that equal logits give equal tokens."""

    ahead = 1

    def __init__(self, backend: Backend, texts: Sequence[GrowingText], options: GenerateOptions) -> None:
        self._backend, self._texts, self._options = backend, texts, options

    def __call__(self, rows: Rows, step: int) -> Chosen:
        """The token number `step` of every text."""
        logits = self._backend.to_numpy(rows.logits)  # [B, V]
        chosen = [self._choose(row, text, step) for row, text in zip(logits, self._texts, strict=True)]
        tokens = self._backend.put(np.array([choice.token for choice in chosen], np.int32))
        return Chosen(tokens, chosen)

    def choices(self, chosen: Sequence[Chosen]) -> list[list[Choice]]:
        """The choices, which are already on the host."""
        return [found.details for found in chosen]

    def _choose(self, logits: np.ndarray, text: GrowingText, step: int) -> Choice:
        options, total = self._options, float(sampling.log_sum_exp(logits)[0])
        if not np.isfinite(total):
            raise InputError(NOT_FINITE)
        penalised = sampling.penalised(logits, text.ids, options.repetition_penalty)
        token = sampling.choose(penalised, options, float(text.draws[step]))
        ids = sampling.likeliest(logits, options.alternatives) if options.alternatives else np.zeros(0, int)
        alternatives = tuple((int(i), float(logits[i]) - total) for i in ids)
        return Choice(token, float(logits[token]) - total, alternatives)


class OnDevice:
    """Chooses on the device, by the definitions in `on_device`, without copying the tokens to the host."""

    def __init__(self, backend: Backend, texts: Sequence[GrowingText], options: GenerateOptions, ahead: int) -> None:
        self.ahead = ahead
        self._backend = backend
        self._choose = _compiled_choice(backend, _of_a_choice(options))
        self._draws = np.stack([text.draws for text in texts], 1)  # [steps, B]
        self._texts = texts
        self._penalty = options.repetition_penalty
        self._seen: Tensor | None = None

    def __call__(self, rows: Rows, step: int) -> Chosen:
        """The token number `step` of every text."""
        if self._seen is None:
            self._seen = self._backend.put(self._marks(rows.config.vocab_size))
        uniform = self._backend.put(self._draws[step])
        self._seen, (tokens, details) = self._choose(self._seen, rows.logits, uniform)
        return Chosen(tokens, details)

    def choices(self, chosen: Sequence[Chosen]) -> list[list[Choice]]:
        """Copy the choices of all steps from the device at once.

        The copy always has `ahead` steps, so that one compiled program serves any number of them.
        """
        steps = [found.details for found in chosen]
        steps += steps[-1:] * (self.ahead - len(steps))
        copied = self._backend.to_numpy(self._backend.ops.concat(steps, 0))[: 2 * len(chosen)]  # [2 steps, B]
        tokens, logprobs = copied[::2].astype(np.int32), copied[1::2]
        if not np.isfinite(logprobs).all():
            raise InputError(NOT_FINITE)
        return [
            [Choice(int(token), float(logprob)) for token, logprob in zip(*step, strict=True)]
            for step in zip(tokens, logprobs, strict=True)
        ]

    def _marks(self, n_vocab: int) -> np.ndarray:
        """1 for every token that is already in a text, otherwise 0: [B, V]; [B, 1] zeros where there is no penalty."""
        if self._penalty == 1.0:
            return np.zeros((len(self._texts), 1))
        marks = np.zeros((len(self._texts), n_vocab))
        for row, text in zip(marks, self._texts, strict=True):
            row[text.ids] = 1.0
        return marks


def chooser(backend: Backend, texts: Sequence[GrowingText], options: GenerateOptions, streaming: bool) -> Chooser:
    """The chooser for a backend and options: `OnDevice` for asynchronous devices, otherwise `OnHost`."""
    if not backend.capabilities.asynchronous or options.alternatives:
        return OnHost(backend, texts, options)
    return OnDevice(backend, texts, options, 1 if streaming else AHEAD)


def _of_a_choice(options: GenerateOptions) -> GenerateOptions:
    """The options that the choice of a token depends on; all others are defaults, which saves programs."""
    names = ("temperature", "top_k", "top_p", "top_p_rule", "min_p", "repetition_penalty")
    return GenerateOptions(**{name: getattr(options, name) for name in names})


@lru_cache(maxsize=16)
def _compiled_choice(backend: Backend, options: GenerateOptions) -> Callable[..., tuple[Tensor, list[Tensor]]]:
    """(seen, logits [B, V], uniform [B]) -> seen with the new tokens, (tokens [B], details [2, B]).

    The details are the tokens, which float32 holds exactly up to 2^24, and their log-probabilities.
    """
    ops = backend.ops

    def choose(seen: Tensor, logits: Tensor, uniform: Tensor) -> tuple[Tensor, list[Tensor]]:
        penalised = on_device.penalised(ops, logits, seen > 0.0, options.repetition_penalty)
        tokens = on_device.choose(ops, penalised, uniform, options)
        if options.repetition_penalty != 1.0:
            new = ops.reshape(ops.arange(logits.shape[-1]), (1, -1)) == ops.reshape(tokens, (-1, 1))
            seen = ops.where(new, 1.0, seen)
        details = (ops.astype(tokens, ops.reduce_dtype), on_device.log_probability(ops, logits, tokens))
        return seen, [tokens, ops.concat([ops.reshape(x, (1, -1)) for x in details], 0)]

    return backend.jit_step(choose)
