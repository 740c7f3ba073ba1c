"""What the suite speaks to: anything that claims to be GPT-2, through as many of these methods as it has.

A backend is a subject through the core's model (`BackendSubject`). Somebody's own class is one through a small
subclass of `Subject` with the methods it can offer. All arrays are NumPy's; weights have the names and shapes of
`gpt2spec.parameters`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from gpt2spec import api
from gpt2spec.accumulation import MicroBatch, add_micro_batch, empty_total, shares
from gpt2spec.backend import Backend
from gpt2spec.config import GPT2Config
from gpt2spec.decoding import generator, sampling
from gpt2spec.decoding.options import GenerateOptions
from gpt2spec.errors import ConfigError
from gpt2spec.model import Past, cached_forward, empty_cache, forward_with_taps
from gpt2spec.optimizer import AdamW, WarmupCosine, apply_gradients, initial_state, train_step, update_scalars
from gpt2spec.parameters import HostParams, initial_parameters
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
"""The methods of a subject; what else a case may ask for says `Case`."""


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
        """Whether the subject has what a case needs: an operation of `OPERATIONS`, or another one (see `Case`)."""
        if operation == "backend":
            return self.backend is not None
        if operation in LEVELS:
            return self.backend is not None and LEVELS[operation].applies(self)
        if operation == "loss":
            return self._overrides("loss") or self._overrides("loss_and_gradients")
        return self._overrides(operation)

    def context(self) -> AbstractContextManager[None]:
        """What a case enters where it runs functions of the core on the subject's backend by itself."""
        return nullcontext()

    def _overrides(self, operation: str) -> bool:
        return getattr(type(self), operation) is not getattr(Subject, operation)

    # ------------------------------------------------------------------ level inference

    def logits(self, config: GPT2Config, params: HostParams, tokens: np.ndarray) -> np.ndarray:
        """Tokens [B, T] -> [B, T, V], without dropout."""
        raise NotImplementedError

    def taps(self, config: GPT2Config, params: HostParams, tokens: np.ndarray) -> dict[str, np.ndarray]:
        """`h.0.attn`, `h.0.mlp` and `h.0.residual` (the stream after block 0) and so on, each [B, T, D]."""
        raise NotImplementedError

    # ------------------------------------------------------------------ level gradient

    def loss(self, config: GPT2Config, params: HostParams, tokens: np.ndarray, targets: np.ndarray) -> float:
        """Mean cross entropy in nats of `targets` [B, T] after `tokens` [B, T]."""
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
        """`loss_and_gradients`, computed some rows at a time and added up: `sizes` add up to the rows."""
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
        """Freshly initialised weights."""
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
        """Probabilities [V] of the token after `text` from its logits [V], as tokens are drawn with these options.

        The repetition penalty comes first, then temperature, top-k, top-p and min-p.
        """
        raise NotImplementedError

    def generate(
        self, config: GPT2Config, params: HostParams, prompts: Sequence[Sequence[int]], options: GenerateOptions
    ) -> list[list[int]]:
        """The new tokens of each prompt without a stop token; the samples or beams of a prompt side by side."""
        raise NotImplementedError


class BackendSubject(Subject):
    """A backend, run through the core's own model, optimizer and decoding."""

    backend: Backend

    def __init__(self, backend: Backend, name: str | None = None) -> None:
        self.backend = backend
        self.decoding_weights = backend.capabilities.decoding_weights or None
        self.name = name or " ".join(filter(None, [backend.name, self.decoding_weights]))
        self.dtype = backend.dtype
        self._programs: dict[Any, Any] = {}

    def supports(self, operation: str) -> bool:
        """A backend has everything but gradients that it does not claim and the operations of other levels."""
        if operation in LEVELS:
            return LEVELS[operation].applies(self)
        needs_gradients = operation in ("loss_and_gradients", "accumulated_gradients", "train_losses")
        return self.backend.capabilities.gradients or not needs_gradients

    def logits(self, config: GPT2Config, params: HostParams, tokens: np.ndarray) -> np.ndarray:  # noqa: D102
        return api.logits(self.backend, config, params, tokens)

    def taps(self, config: GPT2Config, params: HostParams, tokens: np.ndarray) -> dict[str, np.ndarray]:  # noqa: D102
        backend = self.backend
        run = self._program(
            ("taps", config),
            lambda: backend.jit(lambda params, tokens: forward_with_taps(backend.ops, config, params, tokens)[1]),
        )
        layers = backend.ops.unstack_layers(run(backend.load_params(params), backend.put(tokens)))
        return {
            f"h.{i}.{name}": backend.to_numpy(layer[name])
            for i, layer in enumerate(layers)
            for name in ("attn", "mlp", "residual")
        }

    def loss(self, config: GPT2Config, params: HostParams, tokens: np.ndarray, targets: np.ndarray) -> float:  # noqa: D102
        backend = self.backend
        batch = (backend.put(tokens), backend.put(targets))
        return float(backend.to_numpy(api.compiled_loss(backend, config)(backend.load_params(params), *batch)))

    def loss_and_gradients(  # noqa: D102
        self, config: GPT2Config, params: HostParams, tokens: np.ndarray, targets: np.ndarray
    ) -> tuple[float, HostParams]:
        return api.loss_and_gradients(self.backend, config, params, tokens, targets)

    def accumulated_gradients(  # noqa: D102
        self,
        config: GPT2Config,
        params: HostParams,
        tokens: np.ndarray,
        targets: np.ndarray,
        sizes: Sequence[int],
    ) -> tuple[float, HostParams]:
        backend = self.backend
        add = self._program(("accumulate", config), lambda: add_micro_batch(backend, config))
        device_params = backend.load_params(params)
        total = empty_total(backend.ops, device_params)
        ends = np.cumsum(sizes)
        for end, size, share in zip(ends, sizes, shares(sizes), strict=True):
            inputs, following = (backend.put(x[end - size : end]) for x in (tokens, targets))
            total, _ = add(total, device_params, *MicroBatch(inputs, following, backend.put(np.float64(share)), None))
        return float(backend.to_numpy(total["loss"])), backend.dump_params(total["gradients"])

    def adamw_steps(  # noqa: D102
        self, adamw: AdamW, params: HostParams, gradients: Sequence[HostParams], rates: Sequence[float]
    ) -> list[HostParams]:
        backend = self.backend
        run = self._program(
            ("adamw", adamw),
            lambda: backend.jit_update(
                lambda state, gradients, scalars: apply_gradients(backend.ops, adamw, state, gradients, scalars)
            ),
        )
        state = initial_state(backend.ops, backend.load_params(params))
        found = []
        for update, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
            state, _ = run(state, backend.load_params(gradient), self._scalars(adamw, rate, update))
            found.append(backend.dump_params(state["params"]))
        return found

    def learning_rates(self, schedule: WarmupCosine, updates: Sequence[int]) -> list[float]:  # noqa: D102
        return [schedule(update) for update in updates]

    def train_losses(  # noqa: D102
        self, config: GPT2Config, params: HostParams, batches: np.ndarray, adamw: AdamW, rate: float
    ) -> list[float]:
        backend = self.backend
        step = self._program(("train", config, adamw), lambda: train_step(backend, config, adamw))
        state = initial_state(backend.ops, backend.load_params(params))
        losses = []
        for update, batch in enumerate(batches, 1):
            scalars = self._scalars(adamw, rate, update)
            state, metrics = step(state, *map(backend.put, batch), scalars, None)
            losses.append(float(backend.to_numpy(metrics["loss"])))
        return losses

    def initial_parameters(self, config: GPT2Config, seed: int) -> HostParams:  # noqa: D102
        return initial_parameters(config, seed)

    def cached_logits(  # noqa: D102
        self, config: GPT2Config, params: HostParams, tokens: np.ndarray, lengths: Sequence[int], widths: Sequence[int]
    ) -> np.ndarray:
        backend = self.backend
        rows, total = tokens.shape
        cache = empty_cache(backend.ops, config, rows, total)
        device_params = backend.decoding_params(backend.load_params(params))
        found = np.zeros((rows, total, config.vocab_size), np.float64)
        position = np.zeros(rows, np.int32)
        for width in widths:
            start = np.minimum(position, np.maximum(np.asarray(lengths) - 1, 0)).astype(np.int32)
            start = np.minimum(start, total - width)
            columns = start[:, None] + np.arange(width)
            piece = backend.put(np.take_along_axis(tokens, columns, 1))
            if width > 1 and not position.any():  # as decoding reads prompts
                cache, logits = self._prefill(config, width)(cache, device_params, piece)
            else:
                cache, logits = self._cached_step(config, total)(cache, device_params, piece, backend.put(start))
            for row, (at, values) in enumerate(zip(start, backend.to_numpy(logits), strict=True)):
                kept = min(width, max(0, lengths[row] - at))
                found[row, at : at + kept] = values[:kept]
            position = position + width
        return found

    def token_probabilities(self, logits: np.ndarray, options: GenerateOptions, text: Sequence[int] = ()) -> np.ndarray:  # noqa: D102
        penalised = sampling.penalised(logits, text, options.repetition_penalty)
        return sampling.filtered_probabilities(penalised, options)

    def generate(  # noqa: D102
        self, config: GPT2Config, params: HostParams, prompts: Sequence[Sequence[int]], options: GenerateOptions
    ) -> list[list[int]]:
        found = generator.generate(self.backend, config, params, prompts, options)
        return [generation.tokens for generation in found]

    def _prefill(self, config: GPT2Config, width: int) -> Any:
        ops = self.backend.ops
        return self._program(
            ("prefill", config, width),
            lambda: self.backend.jit_update(
                lambda cache, params, tokens: cached_forward(ops, config, params, Past(cache, None, width), tokens)
            ),
        )

    def _cached_step(self, config: GPT2Config, length: int) -> Any:
        ops = self.backend.ops
        return self._program(
            ("cached", config, length),
            lambda: self.backend.jit_update(
                lambda cache, params, tokens, start: cached_forward(
                    ops, config, params, Past(cache, start, length), tokens
                )
            ),
        )

    def _scalars(self, adamw: AdamW, rate: float, update: int) -> dict[str, Any]:
        scalars = update_scalars(adamw, rate, update)
        return {name: self.backend.put(np.float64(value)) for name, value in scalars.items()}

    def _program(self, key: Any, make: Any) -> Any:
        if key not in self._programs:
            self._programs[key] = make()
        return self._programs[key]


def backend_of(subject: Subject) -> Backend:
    """The backend of a subject that supports the operation "backend"."""
    assert subject.backend is not None
    return subject.backend


def load_subject(path: str) -> Subject:
    """The subject that `package.module:factory` makes. Raises `ConfigError` where it does not."""
    module_name, _, factory_name = path.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"--subject takes package.module:factory; {path!r}: {error}") from None
    try:
        subject = factory()
    except TypeError as error:
        raise ConfigError(f"--subject {path}: {error}") from None
    if not isinstance(subject, Subject):
        raise ConfigError(f"{path} returned {type(subject).__name__}; a gpt2spec_conformance.Subject is expected")
    return subject
