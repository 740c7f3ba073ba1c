"""Mistakes in dropout."""

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

from gpt2spec.config import GPT2Config
from gpt2spec.ops import Key, Tensor, TensorOps
from gpt2spec.tree import Tree
from gpt2spec_conformance.mutants.fault import Mutant
from gpt2spec_conformance.mutants.structure import Branches, block_of

SPEC = "in training zero with probability p, otherwise x / (1 - p), backward by the same mask (TensorOps.dropout)"
SITES = "on the embedding and on both residual branches, each with a mask of its own (model.block, transformer)"
WEIGHTS = "attention weights, after the softmax, at a rate of their own (TensorOps.causal_attention)"
GIVEN = "dropout.masks.given"
Dropout = Callable[[Any, TensorOps, Tensor, float, Key | None], Tensor]


def _unscaled(original: Any, ops: TensorOps, x: Tensor, rate: float, key: Key | None) -> Tensor:
    return original(x, rate, key) if key is None else original(x, rate, key) * (1.0 - rate)


def _always(original: Any, ops: TensorOps, x: Tensor, rate: float, key: Key | None) -> Tensor:
    """Drops the beginning of the width where there is no key from which to draw."""
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


def _embedding(change: Callable[[TensorOps, Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]) -> dict[str, Any]:
    """Replaces dropout of the embedding by `change(ops, drop, tok, x)`, given the tokens' rows and the whole sum."""

    def transformer(
        original: Any, ops: TensorOps, config: GPT2Config, params: Tree, tokens: Tensor, *, key: Any = None, **rest: Any
    ) -> Any:
        dropout = ops.dropout
        done: list[bool] = []

        def first(x: Tensor, rate: float, key: Key | None) -> Tensor:
            if done or key is None:
                return dropout(x, rate, key)
            done.append(True)
            tok = ops.take(params["wte"]["weight"], tokens, axis=0)
            return change(ops, lambda x: dropout(x, rate, key), tok, x)

        with mock.patch.object(ops, "dropout", first):
            return original(ops, config, params, tokens, key=key, **rest)

    return {"gpt2spec.model.transformer": transformer}


def _at_the_end(original: Any, ops: TensorOps, config: GPT2Config, *args: Any, key: Any = None, **rest: Any) -> Any:
    x, cache, taps = original(ops, config, *args, key=key, **rest)
    return ops.dropout(x, config.dropout, None if key is None else ops.fold_in(key, config.n_layer + 1)), cache, taps


def _on_the_sum(b: Branches, x: Tensor) -> Tensor:
    x = b.drop(x + b.attention(b.norm("ln_1", x)), 1)
    return b.drop(x + b.mlp(b.norm("ln_2", x)), 2)


def _before_the_branch(b: Branches, x: Tensor) -> Tensor:
    x = x + b.attention(b.norm("ln_1", b.drop(x, 1)))
    return x + b.mlp(b.norm("ln_2", b.drop(x, 2)))


def _not_on_the_mlp(b: Branches, x: Tensor) -> Tensor:
    x = x + b.drop(b.attention(b.norm("ln_1", x)), 1)
    return x + b.mlp(b.norm("ln_2", x))


def _one_rate(original: Any, ops: TensorOps, config: GPT2Config, *args: Any, **settings: Any) -> Any:
    return original(ops, config.replace(attn_dropout=config.dropout), *args, **settings)


def _weights_kept(original: Any, ops: TensorOps, q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
    return original(q, k, v, **{**settings, "dropout": 0.0})


def _scores_dropped(ops: TensorOps, drop: Any, scores: Tensor, visible: Tensor) -> Tensor:
    return ops.softmax(ops.where(visible, drop(scores), -math.inf))


def _renormalised(ops: TensorOps, drop: Any, scores: Tensor, visible: Tensor) -> Tensor:
    weights = drop(ops.softmax(ops.where(visible, scores, -math.inf)))
    return weights / (ops.sum(weights, -1, keepdims=True) + 1e-6)


def _site(name: str, summary: str, core: dict[str, Any], spec: str = SITES) -> Mutant:
    return Mutant(name, summary, spec, GIVEN, core=core)


def _dropout(name: str, summary: str, replacement: Dropout, killed_by: str) -> Mutant:
    return Mutant(name, summary, SPEC, killed_by, ops={"dropout": replacement})


def _weights(
    name: str, summary: str, normalise: Callable[[TensorOps, Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]
) -> Mutant:
    """Replaces the weights of attention in training by `normalise(ops, drop, scores, visible)`."""

    def attend(original: Any, ops: TensorOps, q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
        key, rate = settings.get("key"), settings.get("dropout", 0.0)
        if key is None or rate == 0.0:
            return original(q, k, v, **settings)
        T = q.shape[2]
        scores = ops.matmul(q, ops.permute_dims(k, (0, 1, 3, 2)))
        scores = ops.astype(scores, ops.reduce_dtype) / math.sqrt(q.shape[3])
        visible = ops.reshape(ops.arange(T), (1, 1, 1, T)) <= ops.reshape(ops.arange(T), (1, 1, T, 1))
        weights = normalise(ops, lambda x: ops.dropout(x, rate, key), scores, visible)
        return ops.matmul(ops.astype(weights, ops.dtype), v)

    return Mutant(name, summary, WEIGHTS, GIVEN, ops={"causal_attention": attend})


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
    _site("dropout-embedding-missing", "none on the embedding", _embedding(lambda ops, drop, tok, x: x)),
    _site(
        "dropout-tokens-only",
        "on the tokens' embedding, before positions are added",
        _embedding(lambda ops, drop, tok, x: drop(tok) + (x - tok)),
    ),
    _site("dropout-mlp-missing", "none on the MLP's branch", block_of(_not_on_the_mlp)),
    _site("dropout-on-stream", "on the residual stream after each sum, not on the branch", block_of(_on_the_sum)),
    _site("dropout-before-branches", "on what enters a branch, not on what leaves it", block_of(_before_the_branch)),
    _site("dropout-at-the-end", "once more, after the last layer norm", {"gpt2spec.model.transformer": _at_the_end}),
    _site(
        "dropout-weights-rate",
        "attention weights have the rate of the residual branches",
        {"gpt2spec.model.transformer": _one_rate},
        WEIGHTS,
    ),
    Mutant(
        "dropout-weights-missing",
        "attention weights are never dropped",
        WEIGHTS,
        GIVEN,
        ops={"causal_attention": _weights_kept},
    ),
    _weights("dropout-scores", "scores are dropped, before the softmax", _scores_dropped),
    _weights(
        "dropout-weights-renormalised",
        "attention weights are brought to a sum of 1 again after some were dropped",
        _renormalised,
    ),
]
