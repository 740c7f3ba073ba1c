"""Mistakes in AdamW, weight decay and gradient clipping."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from gpt2spec.ops import AdamWScalars, Tensor, TensorOps
from gpt2spec.optimizer import AdamW, clip_scale
from gpt2spec.tree import Tree, named_leaves, tree_leaves, tree_map
from gpt2spec_conformance.mutants.fault import Mutant

ADAM = "theta -= lr (m_hat / (sqrt(v_hat) + epsilon) + decay theta), t from 1 (TensorOps.adamw_update)"
DECAY = "decay is decoupled, times the learning rate, on all weights unless 'matrices' is asked for (decay_rates)"
CLIP = "gradients are scaled by min(1, clip / norm), norm over all weights together (optimizer.clip_scale)"
SETTINGS = "beta1 0.9, beta2 0.95, epsilon 1e-8 unless others are asked for (optimizer.AdamW)"
APPLY_GRADIENTS, UPDATE_SCALARS = "gpt2spec.optimizer.apply_gradients", "gpt2spec.optimizer.update_scalars"
Moved = tuple[Tensor, Tensor, Tensor]


Update = Callable[[TensorOps, Tensor, Tensor, Tensor, Tensor, float, AdamWScalars], Moved]


def each(update_one: Update) -> Callable[..., Any]:
    """Replaces `adamw_update` by `update_one(ops, p, g, m, v, decay, scalars)`, which gives new p, m and v."""

    def adamw_update(
        original: Any, ops: TensorOps, params: Any, grads: Any, m: Any, v: Any, decay: Any, s: AdamWScalars
    ) -> Any:
        groups = zip(params, grads, m, v, decay, strict=True)
        moved = [update_one(ops, p, g, m, v, rate, s) for p, g, m, v, rate in groups]
        return tuple(list(column) for column in zip(*moved, strict=True))

    return adamw_update


def moments(g: Tensor, m: Tensor, v: Tensor, s: AdamWScalars) -> tuple[Tensor, Tensor]:
    """The running means of the gradient and of its square."""
    g = s.scale * g
    return s.beta1 * m + (1.0 - s.beta1) * g, s.beta2 * v + (1.0 - s.beta2) * (g * g)


def direction(ops: TensorOps, m: Tensor, v: Tensor, s: AdamWScalars) -> Tensor:
    """m_hat / (sqrt(v_hat) + epsilon)."""
    return (m / s.correction1) / (ops.sqrt(v / s.correction2) + s.epsilon)


def moved(ops: TensorOps, p: Tensor, m: Tensor, v: Tensor, decay: float, s: AdamWScalars) -> Tensor:
    """theta - lr (direction + decay theta)."""
    return p - s.lr * (direction(ops, m, v, s) + decay * p)


def towards(step: Callable[[TensorOps, Tensor, Tensor, AdamWScalars], Tensor]) -> Callable[..., Any]:
    """Updates in another direction, `step(ops, m, v, scalars)`."""

    def update_one(ops: TensorOps, p: Tensor, g: Tensor, m: Tensor, v: Tensor, decay: float, s: AdamWScalars) -> Moved:
        m, v = moments(g, m, v, s)
        return p - s.lr * (step(ops, m, v, s) + decay * p), m, v

    return each(update_one)


def _l2(ops: TensorOps, p: Tensor, g: Tensor, m: Tensor, v: Tensor, decay: float, s: AdamWScalars) -> Moved:
    m, v = moments(g + decay / s.scale * p, m, v, s)
    return p - s.lr * direction(ops, m, v, s), m, v


def _decay_without_rate(
    ops: TensorOps, p: Tensor, g: Tensor, m: Tensor, v: Tensor, decay: float, s: AdamWScalars
) -> Moved:
    m, v = moments(g, m, v, s)
    return p - s.lr * direction(ops, m, v, s) - decay * p, m, v


def _decay_after(ops: TensorOps, p: Tensor, g: Tensor, m: Tensor, v: Tensor, decay: float, s: AdamWScalars) -> Moved:
    m, v = moments(g, m, v, s)
    p = p - s.lr * direction(ops, m, v, s)
    return p - s.lr * decay * p, m, v


def _decay_by_deviation(
    ops: TensorOps, p: Tensor, g: Tensor, m: Tensor, v: Tensor, decay: float, s: AdamWScalars
) -> Moved:
    m, v = moments(g, m, v, s)
    numerator = m / s.correction1 + decay * p
    return p - s.lr * numerator / (ops.sqrt(v / s.correction2) + s.epsilon), m, v


def _amsgrad(ops: TensorOps, p: Tensor, g: Tensor, m: Tensor, v: Tensor, decay: float, s: AdamWScalars) -> Moved:
    m, new_v = moments(g, m, v, s)
    v = ops.where(new_v > v, new_v, v)
    return moved(ops, p, m, v, decay, s), m, v


def _nesterov(ops: TensorOps, p: Tensor, g: Tensor, m: Tensor, v: Tensor, decay: float, s: AdamWScalars) -> Moved:
    m, v = moments(g, m, v, s)
    ahead, _ = moments(g, m, v, s)
    return moved(ops, p, ahead, v, decay, s), m, v


def _stale_moments(ops: TensorOps, p: Tensor, g: Tensor, m: Tensor, v: Tensor, decay: float, s: AdamWScalars) -> Moved:
    new_m, new_v = moments(g, m, v, s)
    return moved(ops, p, m, new_v, decay, s), new_m, new_v


def _undamped(ops: TensorOps, p: Tensor, g: Tensor, m: Tensor, v: Tensor, decay: float, s: AdamWScalars) -> Moved:
    new_m, v = s.beta1 * m + s.scale * g, moments(g, m, v, s)[1]
    return moved(ops, p, new_m, v, decay, s), new_m, v


def _variance_unclipped(
    ops: TensorOps, p: Tensor, g: Tensor, m: Tensor, v: Tensor, decay: float, s: AdamWScalars
) -> Moved:
    new_m, _ = moments(g, m, v, s)
    _, new_v = moments(g / s.scale, m, v, s)
    return moved(ops, p, new_m, new_v, decay, s), new_m, new_v


def _betas_exchanged(
    ops: TensorOps, p: Tensor, g: Tensor, m: Tensor, v: Tensor, decay: float, s: AdamWScalars
) -> Moved:
    s = s._replace(beta1=s.beta2, beta2=s.beta1, correction1=s.correction2, correction2=s.correction1)
    m, v = moments(g, m, v, s)
    return moved(ops, p, m, v, decay, s), m, v


def _corrected(change: Callable[[AdamWScalars], dict[str, Any]]) -> Callable[..., Any]:
    return towards(lambda ops, m, v, s: direction(ops, m, v, s._replace(**change(s))))


def _epsilon_inside(ops: TensorOps, m: Tensor, v: Tensor, s: AdamWScalars) -> Tensor:
    return (m / s.correction1) / ops.sqrt(v / s.correction2 + s.epsilon)


def _epsilon_before_correction(ops: TensorOps, m: Tensor, v: Tensor, s: AdamWScalars) -> Tensor:
    return (m / s.correction1) / ((ops.sqrt(v) + s.epsilon) / ops.sqrt(s.correction2))


def _no_epsilon(ops: TensorOps, m: Tensor, v: Tensor, s: AdamWScalars) -> Tensor:
    return (m / s.correction1) / (ops.sqrt(v / s.correction2) + 1e-30)


def _no_root(ops: TensorOps, m: Tensor, v: Tensor, s: AdamWScalars) -> Tensor:
    return (m / s.correction1) / (v / s.correction2 + s.epsilon)


def _with_gradients(change: Callable[[TensorOps, AdamW, Tree], Tree], **settings: Any) -> dict[str, Callable[..., Any]]:
    """Updates by other gradients, `change(ops, adamw, gradients)`, and with other settings."""

    def apply_gradients(original: Any, ops: TensorOps, adamw: AdamW, state: Tree, grads: Tree, scalars: Any) -> Any:
        return original(ops, dataclasses.replace(adamw, **settings), state, change(ops, adamw, grads), scalars)

    return {APPLY_GRADIENTS: apply_gradients}


def _clipped_by_value(ops: TensorOps, adamw: AdamW, grads: Tree) -> Tree:
    def clipped(g: Tensor) -> Tensor:
        g = ops.where(g > adamw.clip, adamw.clip, g)
        return ops.where(g < -adamw.clip, -adamw.clip, g)

    return tree_map(clipped, grads) if adamw.clip else grads


def _clipped_one_by_one(ops: TensorOps, adamw: AdamW, grads: Tree) -> Tree:
    return tree_map(lambda g: g * clip_scale(ops, ops.global_norm([g]), adamw.clip), grads)


def _gains_decayed(original: Any, adamw: AdamW, params: Tree) -> list[float]:
    paths = [path for path, _ in named_leaves(params)]
    return [adamw.weight_decay if path[-1] == "weight" or adamw.decay == "all" else 0.0 for path in paths]


def _always_scaled(original: Any, ops: TensorOps, norm: Tensor, clip: float) -> Any:
    return original(ops, norm, clip) if clip == 0.0 else clip / norm


def _scaled_with_epsilon(original: Any, ops: TensorOps, norm: Tensor, clip: float) -> Any:
    return original(ops, norm + 1e-6, clip)


def _sum_of_squares(original: Any, ops: TensorOps, tensors: Sequence[Tensor]) -> Tensor:
    norm = original(tensors)
    return norm * norm


def _sum_of_norms(original: Any, ops: TensorOps, tensors: Sequence[Tensor]) -> Tensor:
    total = original(tensors[:1])
    for x in tensors[1:]:
        total = total + original([x])
    return total


def _root_mean_square(original: Any, ops: TensorOps, tensors: Sequence[Tensor]) -> Tensor:
    return original(tensors) / math.sqrt(sum(math.prod(x.shape) for x in tree_leaves(tensors)))


def _adam(
    name: str, summary: str, replacement: Callable[..., Any], killed_by: str = "adamw.1e+00", spec: str = ADAM
) -> Mutant:
    return Mutant(name, summary, spec, f"optimizer.{killed_by}", ops={"adamw_update": replacement})


def _core(name: str, summary: str, spec: str, killed_by: str, core: dict[str, Callable[..., Any]]) -> Mutant:
    return Mutant(name, summary, spec, f"optimizer.{killed_by}", core=core)


def _setting(name: str, summary: str, killed_by: str, spec: str = SETTINGS, **changes: Any) -> Mutant:
    """Fixes settings, whatever is asked for."""

    def apply_gradients(original: Any, ops: TensorOps, adamw: AdamW, *args: Any) -> Any:
        return original(ops, dataclasses.replace(adamw, **changes), *args)

    def update_scalars(original: Any, adamw: AdamW, *args: Any) -> Any:
        return original(dataclasses.replace(adamw, **changes), *args)

    return _core(name, summary, spec, killed_by, {APPLY_GRADIENTS: apply_gradients, UPDATE_SCALARS: update_scalars})


def _decay_update(name: str, summary: str, update_one: Update) -> Mutant:
    return _adam(name, summary, each(update_one), "decay.all", DECAY)


def _decay(name: str, summary: str, which: Callable[[tuple[str, ...]], bool]) -> Mutant:
    """Decays those weights alone whose path `which` holds for."""

    def decay_rates(original: Any, adamw: AdamW, params: Tree) -> list[float]:
        rates = original(adamw, params)
        return [rate if which(path) else 0.0 for rate, (path, _) in zip(rates, named_leaves(params), strict=True)]

    return _core(name, summary, DECAY, "decay.all", {"gpt2spec.optimizer.decay_rates": decay_rates})


def _counted(name: str, summary: str, change: Callable[[int], int]) -> Mutant:
    """Corrects the bias as if the update had another number."""

    def update_scalars(original: Any, adamw: AdamW, lr: float, update: int) -> Any:
        return original(adamw, lr, change(update))

    return _core(name, summary, ADAM, "adamw.1e+00", {UPDATE_SCALARS: update_scalars})


def _clip(name: str, summary: str, killed_by: str, replacement: Callable[..., Any]) -> Mutant:
    return _core(name, summary, CLIP, f"clip.{killed_by}", {"gpt2spec.optimizer.clip_scale": replacement})


def _norm(name: str, summary: str, replacement: Callable[..., Tensor]) -> Mutant:
    return Mutant(name, summary, CLIP, "optimizer.clip.active", ops={"global_norm": replacement})


MUTANTS = [
    _decay_update("decay-l2", "decay added to the gradient (Adam with L2), not beside the update", _l2),
    _decay_update("decay-without-rate", "decay is not multiplied by the learning rate", _decay_without_rate),
    _decay_update("decay-after-update", "decay of the weights that were updated already", _decay_after),
    _decay_update("decay-adapted", "decay is divided by the gradient's deviation", _decay_by_deviation),
    _setting("decay-none", "no weight decay", "decay.all", DECAY, weight_decay=0.0),
    _setting(
        "decay-matrices-only", "decay of matrices only, where all was asked for", "decay.all", DECAY, decay="matrices"
    ),
    _setting(
        "decay-everything", "decay of all weights, where matrices was asked for", "decay.matrices", DECAY, decay="all"
    ),
    _decay("decay-not-embeddings", "no decay of the embeddings", lambda path: path[0] not in ("wte", "wpe")),
    _decay("decay-not-biases", "no decay of biases", lambda path: path[-1] != "bias"),
    _core(
        "decay-gains",
        "layer norm gains are decayed among the matrices: their names end in weight",
        DECAY,
        "decay.matrices",
        {"gpt2spec.optimizer.decay_rates": _gains_decayed},
    ),
    _adam("adam-no-correction", "no bias correction", _corrected(lambda s: {"correction1": 1.0, "correction2": 1.0})),
    _adam("adam-no-first-correction", "the mean is not corrected", _corrected(lambda s: {"correction1": 1.0})),
    _adam(
        "adam-no-second-correction", "the square's mean is not corrected", _corrected(lambda s: {"correction2": 1.0})
    ),
    _adam(
        "adam-corrections-exchanged",
        "the two bias corrections are exchanged",
        _corrected(lambda s: {"correction1": s.correction2, "correction2": s.correction1}),
    ),
    _counted("adam-update-ahead", "t is counted up twice: from 2", lambda update: update + 1),
    _counted("adam-update-from-zero", "t counted from 0, with 1 for the first", lambda update: max(1, update - 1)),
    _counted("adam-update-stuck", "t stays 1", lambda update: 1),
    _adam("adam-epsilon-inside", "epsilon inside the root", towards(_epsilon_inside), "adamw.1e-04"),
    _adam(
        "adam-epsilon-before-correction",
        "epsilon is added before the bias correction (TensorFlow's epsilon hat)",
        towards(_epsilon_before_correction),
        "adamw.1e-09",
    ),
    _adam("adam-no-epsilon", "no epsilon", towards(_no_epsilon), "adamw.1e-09"),
    _adam("adam-no-root", "division by the second moment, not by its root", towards(_no_root), "adamw.1e+02"),
    _setting("adam-epsilon-1e-6", "epsilon is 1e-6", "adamw.1e-09", epsilon=1e-6),
    _setting("adam-epsilon-1e-7", "epsilon is 1e-7 (Keras)", "adamw.1e-09", epsilon=1e-7),
    _setting("adam-beta2-0.999", "beta2 is 0.999 (the default of torch and of the paper)", "adamw.1e+00", beta2=0.999),
    _setting("adam-beta1-0.95", "beta1 is 0.95", "adamw.1e+00", beta1=0.95),
    _adam("adam-betas-exchanged", "beta1 and beta2 are exchanged", each(_betas_exchanged)),
    _adam("adam-amsgrad", "AMSGrad: the second moment never falls", each(_amsgrad)),
    _adam("adam-nesterov", "Nesterov's momentum: the mean looks one gradient ahead", each(_nesterov)),
    _adam("adam-stale-mean", "the update uses the mean from before this gradient", each(_stale_moments)),
    _adam("adam-undamped", "the gradient enters the mean without the factor 1 - beta1", each(_undamped)),
    _adam("adam-sign", "theta grows along the gradient", towards(lambda ops, m, v, s: 0.0 - direction(ops, m, v, s))),
    _core(
        "adam-gradient-doubled",
        "the optimizer gets the gradient twice over",
        ADAM,
        "adamw.1e-09",
        _with_gradients(lambda ops, adamw, grads: tree_map(lambda g: 2.0 * g, grads)),
    ),
    _setting("clip-none", "no clipping, where it was asked for", "clip.active", CLIP, clip=0.0),
    _core(
        "clip-by-value",
        "each value is clipped by itself",
        CLIP,
        "clip.active",
        _with_gradients(_clipped_by_value, clip=0.0),
    ),
    _core(
        "clip-by-tensor",
        "each tensor is clipped by its own norm",
        CLIP,
        "clip.active",
        _with_gradients(_clipped_one_by_one, clip=0.0),
    ),
    _clip("clip-always", "gradients within the norm are scaled up to it", "inactive", _always_scaled),
    _clip("clip-epsilon", "1e-6 is added to the norm, as torch's clip_grad_norm_ does", "small", _scaled_with_epsilon),
    _norm("clip-norm-squared", "the norm's root is forgotten", _sum_of_squares),
    _norm("clip-norm-summed", "the norms of the tensors are added, not their squares", _sum_of_norms),
    _norm("clip-norm-mean", "the norm is divided by the root of the number of values", _root_mean_square),
    _adam(
        "clip-mean-only",
        "the second moment is of the gradient before clipping",
        each(_variance_unclipped),
        "clip.active",
        CLIP,
    ),
]
