"""Mistakes in dropout."""

from collections.abc import Callable
from typing import Any

from gpt2spec.ops import Key, Tensor, TensorOps
from gpt2spec_conformance.mutants.fault import Mutant

SPEC = "in training zero with probability p, otherwise x / (1 - p), backward by the same mask (TensorOps.dropout)"
SITES = "on the embedding and on both residual branches, each with a mask of its own (model.block, transformer)"
Dropout = Callable[[Any, TensorOps, Tensor, float, Key | None], Tensor]


def _unscaled(original: Any, ops: TensorOps, x: Tensor, rate: float, key: Key | None) -> Tensor:
    return original(x, rate, key) if key is None else original(x, rate, key) * (1.0 - rate)


def _always(original: Any, ops: TensorOps, x: Tensor, rate: float, key: Key | None) -> Tensor:
    """Without a key there is nothing to draw from: the first part of the width stands for a random one."""
    if key is not None or rate == 0.0:
        return original(x, rate, key)
    return ops.where(ops.arange(x.shape[-1]) >= rate * x.shape[-1], x / (1.0 - rate), 0.0)


def _redrawn(original: Any, ops: TensorOps, x: Tensor, rate: float, key: Key | None) -> Tensor:
    if key is None or rate == 0.0:
        return original(x, rate, key)
    forward, backward = original(x, rate, key), original(x, rate, ops.fold_in(key, 1))
    return ops.stop_gradient(forward - backward) + backward


def _straight_through(original: Any, ops: TensorOps, x: Tensor, rate: float, key: Key | None) -> Tensor:
    return ops.stop_gradient(original(x, rate, key) - x) + x


def _keep_rate(original: Any, ops: TensorOps, x: Tensor, rate: float, key: Key | None) -> Tensor:
    return original(x, 1.0 - rate if rate else 0.0, key)


def _never(original: Any, ops: TensorOps, x: Tensor, rate: float, key: Key | None) -> Tensor:
    return x


def _twice(original: Any, ops: TensorOps, x: Tensor, rate: float, key: Key | None) -> Tensor:
    return original(x, rate, key) if key is None else original(original(x, rate, key), rate, ops.fold_in(key, 1))


def _whole_positions(original: Any, ops: TensorOps, x: Tensor, rate: float, key: Key | None) -> Tensor:
    return x if key is None or rate == 0.0 else x * original(0.0 * x[..., :1] + 1.0, rate, key)


def _same_key(original: Any, ops: TensorOps, key: Key, index: int | Tensor) -> Key:
    return key


def _on_weights(original: Any, ops: TensorOps, q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
    return original(q, k, v, **{**settings, "dropout": 0.1})


def _dropout(name: str, summary: str, replacement: Dropout, killed_by: str) -> Mutant:
    return Mutant(name, summary, SPEC, killed_by, ops={"dropout": replacement})


MUTANTS = [
    _dropout("dropout-unscaled", "what is kept is not divided by 1 - p", _unscaled, "dropout.scale"),
    _dropout("dropout-evaluation", "dropout is active in evaluation", _always, "dropout.evaluation"),
    _dropout("dropout-redrawn", "the backward pass draws another mask", _redrawn, "dropout.backward"),
    _dropout("dropout-straight-through", "the backward pass has no mask", _straight_through, "dropout.backward"),
    _dropout("dropout-keep-rate", "p is the probability of keeping", _keep_rate, "training.dropout.rate"),
    _dropout("dropout-never", "dropout does nothing", _never, "dropout.rate"),
    _dropout("dropout-twice", "dropout is applied twice at each site", _twice, "dropout.rate"),
    _dropout("dropout-positions", "whole positions are dropped, not single values", _whole_positions, "dropout.sites"),
    Mutant("dropout-same-mask", "every site drops the same values", SITES, "dropout.sites", ops={"fold_in": _same_key}),
    Mutant(
        "dropout-on-weights",
        "attention weights are dropped as well, where their rate is 0",
        SITES,
        "training.dropout.weights",
        ops={"causal_attention": _on_weights},
    ),
]
