"""This module makes a backend a subject, which is judged through the core's own model, optimizer and decoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpt2spec import api
from gpt2spec.accumulation import MicroBatch, add_micro_batch, empty_total, shares
from gpt2spec.backend import Backend
from gpt2spec.config import GPT2Config
from gpt2spec.decoding import generator, sampling
from gpt2spec.decoding.options import GenerateOptions
from gpt2spec.model import Past, cached_forward, empty_cache, forward_with_taps
from gpt2spec.ops import Tensor
from gpt2spec.optimizer import AdamW, WarmupCosine, apply_gradients, initial_state, train_step, update_scalars
from gpt2spec.parameters import HostParams, initial_parameters
from gpt2spec.tree import Tree
from gpt2spec_conformance.level import LEVELS
from gpt2spec_conformance.subjects.interface import Subject


class BackendSubject(Subject):
    """A backend that runs the core's own model, optimizer and decoding."""

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
                cache, logits = self._cached("prompt", config, width)(cache, device_params, piece)
            else:
                cache, logits = self._cached("piece", config, total)(cache, device_params, piece, backend.put(start))
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

    def _cached(self, kind: str, config: GPT2Config, length: int) -> Any:
        """A program that reads a "prompt", or a "piece" whose rows begin at the positions that it is given."""

        def step(cache: Any, params: Tree, tokens: Tensor, start: Tensor | None = None) -> Any:
            return cached_forward(self.backend.ops, config, params, Past(cache, start, length), tokens)

        return self._program((kind, config, length), lambda: self.backend.jit_update(step))

    def _scalars(self, adamw: AdamW, rate: float, update: int) -> dict[str, Any]:
        scalars = update_scalars(adamw, rate, update)
        return {name: self.backend.put(np.float64(value)) for name, value in scalars.items()}

    def _program(self, key: Any, make: Any) -> Any:
        if key not in self._programs:
            self._programs[key] = make()
        return self._programs[key]
