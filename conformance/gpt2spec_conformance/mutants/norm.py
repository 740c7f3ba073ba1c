"""Mistakes in layer norm, and in where it stands."""

from collections.abc import Callable
from typing import Any

from gpt2spec.config import GPT2Config
from gpt2spec.ops import Tensor, TensorOps
from gpt2spec.tree import Tree
from gpt2spec_conformance.mutants.fault import Mutant

SPEC = "layer norm: (x - mean) / sqrt(biased variance + 1e-5) * weight + bias (TensorOps.layer_norm)"
FINAL = "a final layer norm ln_f stands between the last block and the head (model.transformer)"
KILLED_BY, OF_EPSILON, OF_GRADIENT = "model.logits.probe.L1", "model.logits.init.L2", "gradient.weights.probe.L1"
Statistics = Callable[[TensorOps, Tensor, float], tuple[Tensor, Tensor]]


def _variance(ops: TensorOps, x: Tensor) -> Tensor:
    centred = x - ops.mean(x, -1)
    return ops.mean(centred * centred, -1)


def _epsilon_outside(ops: TensorOps, x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    return ops.mean(x, -1), ops.sqrt(_variance(ops, x)) + epsilon


def _no_root(ops: TensorOps, x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    return ops.mean(x, -1), _variance(ops, x) + epsilon


def _unbiased(ops: TensorOps, x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    width = x.shape[-1]
    return ops.mean(x, -1), ops.sqrt(_variance(ops, x) * (width / (width - 1)) + epsilon)


def _detached(ops: TensorOps, x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    return ops.stop_gradient(ops.mean(x, -1)), ops.stop_gradient(ops.sqrt(_variance(ops, x) + epsilon))


def _detached_root(ops: TensorOps, x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    return ops.mean(x, -1), ops.stop_gradient(ops.sqrt(_variance(ops, x) + epsilon))


def _rms(ops: TensorOps, x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    return 0.0 * ops.mean(x, -1), ops.sqrt(ops.mean(x * x, -1) + epsilon)


def _over_positions(ops: TensorOps, x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    mean = ops.mean(x, 1)
    return mean, ops.sqrt(ops.mean((x - mean) * (x - mean), 1) + epsilon)


def _over_position_and_width(ops: TensorOps, x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    mean = ops.mean(ops.mean(x, -1), 1)
    return mean, ops.sqrt(ops.mean(ops.mean((x - mean) * (x - mean), -1), 1) + epsilon)


def _skipping_final(original: Any, ops: TensorOps, config: GPT2Config, p: Tree | None, x: Tensor) -> Tensor:
    return x if p is None else original(ops, config, p, x)


def _statistics(name: str, summary: str, statistics: Statistics, killed_by: str = KILLED_BY) -> Mutant:
    """Writes layer norm out; `statistics(ops, x, epsilon)` gives what is subtracted and what divides."""

    def layer_norm(original: Any, ops: TensorOps, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        x = ops.astype(x, ops.reduce_dtype)
        mean, root = statistics(ops, x, epsilon)
        return ops.astype((x - mean) / root * weight + bias, ops.dtype)

    return Mutant(name, summary, SPEC, killed_by, ops={"layer_norm": layer_norm})


def _epsilon(text: str) -> Mutant:
    def layer_norm(original: Any, ops: TensorOps, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        return original(x, weight, bias, float(text))

    summary = f"layer norm with an epsilon of {text} for 1e-5"
    return Mutant(f"ln-epsilon-{text}", summary, SPEC, OF_EPSILON, ops={"layer_norm": layer_norm})


def _affine(name: str, summary: str, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Mutant:
    def layer_norm(original: Any, ops: TensorOps, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        return original(x, *change(weight, bias), epsilon)

    return Mutant(name, summary, SPEC, KILLED_BY, ops={"layer_norm": layer_norm})


def _without_final(original: Any, ops: TensorOps, config: GPT2Config, params: Tree, *args: Any, **kwargs: Any) -> Any:
    """Runs the transformer without the weights of the final norm, which `_skipping_final` finds missing."""
    return original(ops, config, {**params, "ln_f": None}, *args, **kwargs)


MUTANTS = [
    _statistics("ln-epsilon-outside", "epsilon added to the deviation, outside the root", _epsilon_outside, OF_EPSILON),
    _epsilon("1e-3"),
    _epsilon("1e-6"),
    _epsilon("1e-8"),
    _epsilon("1e-12"),
    _statistics("ln-no-root", "division by the variance, not by its root", _no_root),
    _statistics("ln-unbiased", "variance with n - 1 (torch.var's default) for n", _unbiased),
    _statistics("ln-detached", "mean and deviation are constants to the gradient", _detached, OF_GRADIENT),
    _statistics("ln-detached-deviation", "the deviation is a constant to the gradient", _detached_root, OF_GRADIENT),
    _statistics("ln-rms", "root mean square norm: the mean is not subtracted", _rms),
    _statistics("ln-over-positions", "statistics over the positions, not over the width", _over_positions),
    _statistics("ln-over-all", "one mean and variance for all positions of a row", _over_position_and_width),
    _affine("ln-no-bias", "the bias of layer norms is dropped", lambda weight, bias: (weight, 0.0 * bias)),
    _affine("ln-no-gain", "the gain of layer norms is dropped", lambda weight, bias: (0.0 * weight + 1.0, bias)),
    _affine(
        "ln-gain-plus-one", "gains stored as differences from 1: 1 + weight", lambda weight, bias: (1.0 + weight, bias)
    ),
    _affine(
        "ln-bias-before-gain",
        "the bias is added before the gain multiplies",
        lambda weight, bias: (weight, bias * weight),
    ),
    Mutant(
        "ln-no-final",
        "no final layer norm",
        FINAL,
        KILLED_BY,
        core={"gpt2spec.model.transformer": _without_final, "gpt2spec.model.layer_norm": _skipping_final},
    ),
]
