"""The interface through which the suite speaks to anything that claims to be GPT-2.

All arrays are NumPy's; weights have the names and shapes of `gpt2spec.parameters`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from gpt2spec.backend import Backend
from gpt2spec.config import GPT2Config
from gpt2spec.decoding.options import GenerateOptions
from gpt2spec.optimizer import AdamW, WarmupCosine
from gpt2spec.parameters import HostParams
from gpt2spec_conformance.level import LEVELS

OPERATIONS = (
    "logits",
    "taps",
    "loss",
    "loss_and_gradients",
    "accumulated_gradients",
    "adamw_steps",
    "learning_rates",
    "train_losses",
    "initial_parameters",
    "cached_logits",
    "token_probabilities",
    "generate",
)
"""The methods of a subject. `Case` says what else a case may ask for."""


class Subject:
    """An implementation of GPT-2 to be judged. Override what it has; the rest is reported as unsupported.

    Attributes:
        name: what reports call it.
        dtype: what it computes in: errors are measured in this dtype's epsilon.
        backend: the backend, where the subject is one.
        frameworks: distributions whose versions belong into a report.
        decoding_weights: what weights are rounded to in decoding, "int8", or None where they are not.
    """

    name: str = "subject"
    dtype: str = "float32"
    backend: Backend | None = None
    frameworks: tuple[str, ...] = ()
    decoding_weights: str | None = None

    def supports(self, operation: str) -> bool:
        """Whether the subject has an operation, one of `OPERATIONS` or another that a case may need (see `Case`)."""
        if operation == "backend":
            return self.backend is not None
        if operation in LEVELS:
            return self.backend is not None and LEVELS[operation].applies(self)
        if operation == "loss":
            return self._overrides("loss") or self._overrides("loss_and_gradients")
        return self._overrides(operation)

    def context(self) -> AbstractContextManager[None]:
        """The context in which a case calls functions of the core on the subject's backend."""
        return nullcontext()

    def _overrides(self, operation: str) -> bool:
        return getattr(type(self), operation) is not getattr(Subject, operation)

    # ------------------------------------------------------------------ level inference

    def logits(self, config: GPT2Config, params: HostParams, tokens: np.ndarray) -> np.ndarray:
        """Logits [B, T, V] of tokens [B, T], without dropout."""
        raise NotImplementedError

    def taps(self, config: GPT2Config, params: HostParams, tokens: np.ndarray) -> dict[str, np.ndarray]:
        """The taps `h.0.attn`, `h.0.mlp`, `h.0.residual` (the stream after block 0) and so on, each [B, T, D]."""
        raise NotImplementedError

    # ------------------------------------------------------------------ level gradient

    def loss(self, config: GPT2Config, params: HostParams, tokens: np.ndarray, targets: np.ndarray) -> float:
        """The mean cross entropy in nats of `targets` [B, T] after `tokens` [B, T]."""
        return self.loss_and_gradients(config, params, tokens, targets)[0]

    def loss_and_gradients(
        self, config: GPT2Config, params: HostParams, tokens: np.ndarray, targets: np.ndarray
    ) -> tuple[float, HostParams]:
        """The loss and its gradient by every weight."""
        raise NotImplementedError

    def accumulated_gradients(
        self,
        config: GPT2Config,
        params: HostParams,
        tokens: np.ndarray,
        targets: np.ndarray,
        sizes: Sequence[int],
    ) -> tuple[float, HostParams]:
        """The loss and gradients, added up over micro-batches of so many rows: `sizes` add up to all rows."""
        raise NotImplementedError

    # ------------------------------------------------------------------ level train

    def adamw_steps(
        self, adamw: AdamW, params: HostParams, gradients: Sequence[HostParams], rates: Sequence[float]
    ) -> list[HostParams]:
        """The weights after each update by given gradients, the moments starting at zero."""
        raise NotImplementedError

    def learning_rates(self, schedule: WarmupCosine, updates: Sequence[int]) -> list[float]:
        """The learning rates of some updates, counted from 1."""
        raise NotImplementedError

    def train_losses(
        self, config: GPT2Config, params: HostParams, batches: np.ndarray, adamw: AdamW, rate: float
    ) -> list[float]:
        """The loss of each training step on batches [steps, 2, B, T] of tokens and targets, without dropout."""
        raise NotImplementedError

    def initial_parameters(self, config: GPT2Config, seed: int) -> HostParams:
        """Freshly initialised weights of the model, drawn with a seed."""
        raise NotImplementedError

    # ------------------------------------------------------------------ level decode

    def cached_logits(
        self, config: GPT2Config, params: HostParams, tokens: np.ndarray, lengths: Sequence[int], widths: Sequence[int]
    ) -> np.ndarray:
        """Logits [B, T, V] of rows read through a key/value cache, piece by piece: `widths` add up to T.

        Row b has `lengths[b]` tokens and is 0 beyond. Each piece begins where the row stands, or at its last
        token if the row has ended.
        """
        raise NotImplementedError

    def token_probabilities(self, logits: np.ndarray, options: GenerateOptions, text: Sequence[int] = ()) -> np.ndarray:
        """The probabilities [V] with which the token after `text` is drawn with these options, given its logits [V].

        The repetition penalty comes first, then temperature, top-k, top-p and min-p.
        """
        raise NotImplementedError

    def generate(
        self, config: GPT2Config, params: HostParams, prompts: Sequence[Sequence[int]], options: GenerateOptions
    ) -> list[list[int]]:
        """The new tokens of each prompt without a stop token; the samples or beams of a prompt side by side."""
        raise NotImplementedError


def backend_of(subject: Subject) -> Backend:
    """The backend of a subject that supports the operation "backend"."""
    assert subject.backend is not None
    return subject.backend
