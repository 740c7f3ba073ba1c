"""Mistakes in the loss and in its gradient."""

import math
from collections.abc import Callable
from typing import Any

from gpt2spec.config import GPT2Config
from gpt2spec.ops import Tensor, TensorOps
from gpt2spec.tree import Tree, tree_map
from gpt2spec_conformance.mutants.fault import Mutant

LOSS = "mean over B x T of -log softmax(logits)[next token], in nats (loss.py, TensorOps.head_cross_entropy)"
GRADIENT = "every weight gets the gradient of the mean loss, the embedding from both its uses (loss.py, TensorOps.take)"
OF_LOSS = "loss.mean.probe.L2"
OF_GRADIENT = "gradient.weights.probe.L1"


def _shifted_twice(ops: TensorOps, tokens: Tensor, targets: Tensor) -> Tensor:
    return ops.concat([targets[:, 1:], targets[:, -1:]], 1)


def _last_dropped(original: Any, ops: TensorOps, x: Tensor, wte: Tensor, targets: Tensor) -> Tensor:
    return original(x[:, :-1], wte, targets[:, :-1])


def _first_dropped(original: Any, ops: TensorOps, x: Tensor, wte: Tensor, targets: Tensor) -> Tensor:
    return original(x[:, 1:], wte, targets[:, 1:])


def _last_only(original: Any, ops: TensorOps, x: Tensor, wte: Tensor, targets: Tensor) -> Tensor:
    return original(x[:, -1:], wte, targets[:, -1:])


def _smoothed(original: Any, ops: TensorOps, x: Tensor, wte: Tensor, targets: Tensor) -> Tensor:
    logits = ops.unembed(x, wte)
    to_uniform = ops.sum(ops.log_sum_exp(logits) - ops.mean(logits, -1), None, keepdims=False) / math.prod(
        targets.shape
    )
    return 0.9 * original(x, wte, targets) + 0.1 * to_uniform


def _z_loss(original: Any, ops: TensorOps, x: Tensor, wte: Tensor, targets: Tensor) -> Tensor:
    log_sum = ops.log_sum_exp(ops.unembed(x, wte))
    return original(x, wte, targets) + 1e-4 * ops.sum(log_sum * log_sum, None, keepdims=False) / math.prod(
        targets.shape
    )


def _ignoring_zero(original: Any, ops: TensorOps, x: Tensor, wte: Tensor, targets: Tensor) -> Tensor:
    losses = ops.cross_entropy(ops.unembed(x, wte), targets)
    counted = ops.where(targets > 0, 0.0 * losses + 1.0, 0.0)
    return ops.sum(losses * counted, None, keepdims=False) / ops.sum(counted, None, keepdims=False)


def _scaled(factor: Callable[[Tensor], float]) -> Callable[..., Tensor]:
    def head_cross_entropy(original: Any, ops: TensorOps, x: Tensor, wte: Tensor, targets: Tensor) -> Tensor:
        return factor(targets) * original(x, wte, targets)

    return head_cross_entropy


def _detached_head(original: Any, ops: TensorOps, x: Tensor, wte: Tensor, targets: Tensor) -> Tensor:
    return original(x, ops.stop_gradient(wte), targets)


def _overwritten(original: Any, ops: TensorOps, x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """Passes on the gradient of only the last of equal indices."""
    taken = original(x, indices, axis)
    count = math.prod(indices.shape)
    place, flat = ops.arange(count), ops.reshape(indices, (-1,))
    later = ops.reshape(place, (1, count)) > ops.reshape(place, (count, 1))
    same = ops.reshape(flat, (1, count)) == ops.reshape(flat, (count, 1))
    both = ops.where(later, ops.astype(same, "float32"), 0.0)
    repeated = ops.reshape(ops.sum(both, -1, keepdims=True) > 0.0, (*indices.shape, 1))
    return ops.where(repeated, ops.stop_gradient(taken), taken)


def _loss(name: str, summary: str, replacement: Callable[..., Tensor], killed_by: str = OF_LOSS) -> Mutant:
    return Mutant(name, summary, LOSS, killed_by, ops={"head_cross_entropy": replacement})


def _targets(name: str, summary: str, change: Callable[[TensorOps, Tensor, Tensor], Tensor]) -> Mutant:
    """Computes the loss of other targets, `change(ops, tokens, targets)`."""

    def loss(
        original: Any, ops: TensorOps, config: GPT2Config, params: Tree, tokens: Tensor, targets: Tensor, *key: Any
    ) -> Tensor:
        return original(ops, config, params, tokens, change(ops, tokens, targets), *key)

    return Mutant(name, summary, LOSS, OF_LOSS, core={"gpt2spec.loss.language_model_loss": loss})


def _embed(name: str, summary: str, table: str) -> Mutant:
    """Makes an embedding a constant to the gradient where tokens or positions look it up."""

    def embed(original: Any, ops: TensorOps, params: Tree, tokens: Tensor, positions: Tensor) -> Tensor:
        detached = {"weight": ops.stop_gradient(params[table]["weight"])}
        return original(ops, {**params, table: detached}, tokens, positions)

    return Mutant(name, summary, GRADIENT, OF_GRADIENT, core={"gpt2spec.model.embed": embed})


def backward(name: str, summary: str, change: Callable[[Tensor], Tensor], spec: str = GRADIENT) -> Mutant:
    """Returns `change(gradient)` for each gradient of the weights."""

    def value_and_grad(original: Any, backend: Any, function: Any) -> Any:
        differentiate = original(function)

        def run(*args: Any) -> tuple[Tensor, Tree]:
            value, gradients = differentiate(*args)
            return value, tree_map(change, gradients)

        return run

    return Mutant(name, summary, spec, OF_GRADIENT, backend={"value_and_grad": value_and_grad})


MUTANTS = [
    _targets("targets-not-shifted", "each token is its own target", lambda ops, tokens, targets: tokens),
    _targets("targets-shifted-twice", "targets shifted by the data and again by the loss", _shifted_twice),
    _loss("loss-last-dropped", "the last position's loss is dropped", _last_dropped),
    _loss("loss-first-dropped", "the first position's loss is dropped", _first_dropped),
    _loss("loss-last-only", "the loss of the last position alone", _last_only),
    _loss("loss-smoothed", "label smoothing of 0.1", _smoothed),
    _loss("loss-z", "1e-4 times the squared log-normaliser is added, as in PaLM", _z_loss),
    _loss("loss-ignores-zero", "targets with id 0 are taken for padding", _ignoring_zero, "loss.every-id"),
    _loss("loss-sum", "sum over the positions, not the mean", _scaled(lambda targets: float(math.prod(targets.shape)))),
    _loss(
        "loss-sum-of-row",
        "sum over a row's positions, mean over rows",
        _scaled(lambda targets: float(targets.shape[1])),
    ),
    _loss("loss-bits", "bits for nats", _scaled(lambda targets: 1.0 / math.log(2.0))),
    _loss("head-gradient-missing", "the tied embedding gets no gradient from the head", _detached_head, OF_GRADIENT),
    _embed("embedding-gradient-missing", "the tied embedding gets its gradient from the head alone", "wte"),
    _embed("positions-frozen", "the position embedding gets no gradient", "wpe"),
    Mutant(
        "embedding-gradient-overwritten",
        "gradients of a repeated token overwrite each other, and do not add up",
        GRADIENT,
        OF_GRADIENT,
        ops={"take": _overwritten},
    ),
    backward("gradient-doubled", "gradients accumulated over two micro-batches are not averaged", lambda g: 2.0 * g),
    backward("gradient-negated", "the gradient's sign is wrong", lambda g: 0.0 - g),
]
