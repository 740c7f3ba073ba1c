"""Mistakes in attention, each of which replaces a piece of its definition."""

import math
from collections.abc import Callable
from typing import Any

from gpt2spec.ops import Key, Tensor, TensorOps
from gpt2spec_conformance.mutants.fault import Mutant

SPEC = "softmax(Q K^T / sqrt(d) + mask) V, the mask -inf above the diagonal (TensorOps.causal_attention)"
KILLED_BY = "model.logits.probe.L1"
FINITE = -1e30
"""Instead of -inf where a mistaken mask may leave a query nothing to see: its weights are then uniform."""


def width_of_head(q: Tensor) -> float:
    """sqrt(d), by which scores of queries [B, H, T, d] are divided."""
    return math.sqrt(q.shape[3])


def up_to_itself(key: Tensor, query: Tensor) -> Tensor:
    """Whether a query sees a key, by their positions [S] and [T], which broadcast to [T, S]."""
    return key <= query


def filled(fill: float) -> Callable[[TensorOps, Tensor, Tensor], Tensor]:
    """The softmax of scores that are `fill` where a query does not see."""
    return lambda ops, scores, visible: ops.softmax(ops.where(visible, scores, fill))


masked_softmax = filled(-math.inf)
"""The right weights [B, H, T, S] of scores."""


def spelled(
    *,
    divisor: Callable[[Tensor], float] = width_of_head,
    sees: Callable[[Tensor, Tensor], Tensor] = up_to_itself,
    normalise: Callable[[TensorOps, Tensor, Tensor], Tensor] = masked_softmax,
    cached_only: bool = False,
) -> Callable[..., Tensor]:
    """Writes attention out in primitives with a piece replaced, everywhere or with a cache only.

    `divisor(q)` divides the scores; `sees(key, query)` is the mask by positions; `normalise(ops, scores, visible)`
    turns scores into weights.
    """

    def attend(
        original: Any,
        ops: TensorOps,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        start: Tensor | None = None,
        dropout: float = 0.0,
        key: Key | None = None,
    ) -> Tensor:
        if cached_only and start is None:
            return original(q, k, v, start=start, dropout=dropout, key=key)
        T, S = q.shape[2], k.shape[2]
        scores = ops.matmul(q, ops.permute_dims(k, (0, 1, 3, 2)))  # [B, H, T, S]
        scores = ops.astype(scores, ops.reduce_dtype) / divisor(q)
        query = ops.reshape(ops.arange(T), (1, 1, T, 1))
        if start is not None:
            query = query + ops.reshape(start, (-1, 1, 1, 1))  # [B, 1, T, 1]
        visible = sees(ops.reshape(ops.arange(S), (1, 1, 1, S)), query)
        weights = ops.astype(normalise(ops, scores, visible), ops.dtype)
        return ops.matmul(ops.dropout(weights, dropout, key), v)

    return attend


def _width_of_model(q: Tensor) -> float:
    return math.sqrt(q.shape[1] * q.shape[3])


def _masked_after(ops: TensorOps, scores: Tensor, visible: Tensor) -> Tensor:
    return ops.where(visible, ops.softmax(scores), 0.0)


def _over_queries(ops: TensorOps, scores: Tensor, visible: Tensor) -> Tensor:
    scores = ops.where(visible, scores, FINITE)
    return ops.permute_dims(ops.softmax(ops.permute_dims(scores, (0, 1, 3, 2))), (0, 1, 3, 2))


def _over_heads(ops: TensorOps, scores: Tensor, visible: Tensor) -> Tensor:
    weights = ops.permute_dims(ops.softmax(ops.permute_dims(scores, (0, 2, 3, 1))), (0, 3, 1, 2))
    return ops.where(visible, weights, 0.0)


def _plus_one(ops: TensorOps, scores: Tensor, visible: Tensor) -> Tensor:
    exponentials = ops.exp(ops.where(visible, scores, -math.inf))
    return exponentials / (1.0 + ops.sum(exponentials, -1, keepdims=True))


def _detached_weights(ops: TensorOps, scores: Tensor, visible: Tensor) -> Tensor:
    return ops.stop_gradient(masked_softmax(ops, scores, visible))


def _rotary(original: Any, ops: TensorOps, q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
    """Turns each half of a head's width by a small angle that grows with the position."""

    def turned(x: Tensor) -> Tensor:
        T, half = x.shape[2], x.shape[3] // 2
        angle = ops.reshape(ops.astype(ops.arange(T), ops.dtype), (T, 1)) * 0.1
        sine, cosine = angle - angle * angle * angle / 6.0, 1.0 - angle * angle / 2.0
        a, b = x[..., :half], x[..., half:]
        return ops.concat([a * cosine - b * sine, a * sine + b * cosine], -1)

    return original(turned(q), turned(k), v, **settings)


def _normalised(original: Any, ops: TensorOps, q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
    def unit(x: Tensor) -> Tensor:
        return x / ops.sqrt(ops.mean(x * x, -1) + 1e-6)

    return original(unit(q), unit(k), v, **settings)


def _one_key_head(original: Any, ops: TensorOps, q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
    return original(q, 0.0 * k + k[:, :1], 0.0 * v + v[:, :1], **settings)


def _attention(name: str, summary: str, killed_by: str = KILLED_BY, **pieces: Any) -> Mutant:
    return Mutant(name, summary, SPEC, killed_by, ops={"causal_attention": spelled(**pieces)})


def _around(name: str, summary: str, replacement: Callable[..., Tensor]) -> Mutant:
    return Mutant(name, summary, SPEC, KILLED_BY, ops={"causal_attention": replacement})


MUTANTS = [
    _attention("attention-no-scale", "scores are not divided by sqrt(d)", divisor=lambda q: 1.0),
    _attention("attention-scale-model-width", "scores divided by the root of the whole width", divisor=_width_of_model),
    _attention("attention-scale-d", "scores divided by d, not by its root", divisor=lambda q: float(q.shape[3])),
    _attention("attention-scale-positions", "scores divided by sqrt(T)", divisor=lambda q: math.sqrt(q.shape[2])),
    _attention(
        "mask-shifted", "the mask shifted by one: a token sees the next", sees=lambda key, query: key <= query + 1
    ),
    _attention(
        "mask-strict",
        "a strict mask: a token does not see itself",
        sees=lambda key, query: key < query,
        normalise=filled(FINITE),
    ),
    _attention("mask-none", "no causal mask", sees=lambda key, query: key >= 0 * query),
    _attention(
        "mask-upper", "the mask transposed: a token sees itself and what follows", sees=lambda key, query: key >= query
    ),
    _attention(
        "mask-window", "a token sees only the last four", sees=lambda key, query: (key <= query) == (key > query - 4)
    ),
    _attention("mask-zero", "masked scores are 0, not -inf", normalise=filled(0.0)),
    _attention("mask-minus-ten", "masked scores are -10, not -inf", normalise=filled(-10.0)),
    _attention("mask-after-softmax", "the mask zeroes weights after the softmax", normalise=_masked_after),
    _attention("softmax-over-queries", "softmax over the queries, not the keys", normalise=_over_queries),
    _attention("softmax-over-heads", "softmax over the heads, not the keys", normalise=_over_heads),
    _attention("softmax-plus-one", "one more in the softmax's denominator", normalise=_plus_one),
    _attention(
        "attention-detached",
        "attention weights are constants to the gradient",
        "gradient.weights.probe.L1",
        normalise=_detached_weights,
    ),
    _around("attention-rotary", "queries and keys are rotated by their positions", _rotary),
    _around("attention-normalised", "queries and keys are normalised before their product", _normalised),
    _around("attention-one-key-head", "one head of keys and values for all queries", _one_key_head),
]
