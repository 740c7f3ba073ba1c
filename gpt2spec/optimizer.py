"""AdamW, gradient clipping, the learning-rate schedule, and a training step as a pure update of the state.

Sources: Kingma & Ba 2015 (Adam), Loshchilov & Hutter 2019 (decoupled weight decay), 2017 (cosine).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from gpt2spec.backend import Backend
from gpt2spec.config import GPT2Config
from gpt2spec.errors import ConfigError
from gpt2spec.loss import language_model_loss
from gpt2spec.ops import AdamWScalars, Key, Tensor, TensorOps
from gpt2spec.parameters import is_layer_norm
from gpt2spec.tree import Tree, named_leaves, tree_leaves, tree_map, tree_unflatten


@dataclass(frozen=True)
class AdamW:
    """Settings of the optimizer that stay the same for a whole run.

    Attributes:
        beta1: the decay of the mean of the gradients.
        beta2: the decay of the mean of their squares.
        epsilon: is added to the root of the second moment, after bias correction.
        weight_decay: lambda in theta -= lr (... + lambda theta).
        decay: "all" decays every weight; "matrices" only those of rank 2, not biases and gains.
        clip: the largest global norm of the gradient; longer gradients are scaled down to it. 0 turns clipping off.
    """

    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    decay: Literal["all", "matrices"] = "all"
    clip: float = 0.0

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2", "epsilon", "weight_decay", "clip"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ConfigError(f"{name} is a finite number, not {value!r}")
        for name in ("beta1", "beta2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"{name} lies from 0 to below 1, not {getattr(self, name)}")
        if not self.epsilon > 0.0:
            raise ConfigError(f"epsilon is above 0, not {self.epsilon}")
        if not self.weight_decay >= 0.0:
            raise ConfigError(f"weight_decay is at least 0, not {self.weight_decay}")
        if self.decay not in ("all", "matrices"):
            raise ConfigError(f"decay is 'all' or 'matrices', not {self.decay!r}")
        if not self.clip >= 0.0:
            raise ConfigError(f"clip is above 0, or 0 for none, not {self.clip}")


@dataclass(frozen=True)
class WarmupCosine:
    """A learning-rate schedule for updates t = 1, 2, ..., `steps`: a line up to `peak`, then half a cosine down.

        peak t / warmup                                      for t <= warmup
        floor + (peak - floor) (1 + cos(pi progress)) / 2    after, progress = (t - warmup) / (steps - warmup)

    with floor = peak * final_fraction, reached at t = steps and kept from there on.
    """

    peak: float
    warmup: int
    steps: int
    final_fraction: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 < self.peak < math.inf:
            raise ConfigError(f"a learning rate is above 0, not {self.peak}")
        if not 0 <= self.warmup <= self.steps:
            raise ConfigError(f"the warm-up has from 0 to {self.steps} updates (the whole run), not {self.warmup}")
        if not 0.0 <= self.final_fraction <= 1.0:
            raise ConfigError(f"final_fraction lies from 0 to 1, not {self.final_fraction}")

    def __call__(self, update: int) -> float:
        """The learning rate of update number `update`, counted from 1."""
        if update <= self.warmup:
            return self.peak * update / self.warmup
        if update >= self.steps:
            return self.peak * self.final_fraction
        progress = (update - self.warmup) / (self.steps - self.warmup)
        floor = self.peak * self.final_fraction
        return floor + (self.peak - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def update_scalars(adamw: AdamW, lr: float, update: int) -> dict[str, float]:
    """The numbers of update number `update` (from 1) for `train_step`, computed on the host in float64."""
    return {
        "lr": lr,
        "update": float(update),
        "correction1": 1.0 - adamw.beta1**update,
        "correction2": 1.0 - adamw.beta2**update,
    }


def decay_rates(adamw: AdamW, params: Tree) -> list[float]:
    """The weight decay of each leaf of device parameters, which its name decides.

    Matrices are the embeddings and the weights of projections; biases and layer norms (`ln_1`, `ln_2`, `ln_f`) are not.
    """

    def is_matrix(path: tuple[str, ...]) -> bool:
        return path[-1] == "weight" and not is_layer_norm(path)

    decays = [adamw.decay == "all" or is_matrix(path) for path, _ in named_leaves(params)]
    return [adamw.weight_decay if decayed else 0.0 for decayed in decays]


def clip_scale(ops: TensorOps, norm: Tensor, clip: float) -> Tensor | float:
    """min(1, clip / norm), the factor that limits a gradient's norm to `clip`; 1 for a clip of 0."""
    if clip == 0.0:
        return 1.0
    return clip / ops.where(norm > clip, norm, clip)


def initial_state(ops: TensorOps, params: Tree) -> Tree:
    """The optimizer's state before the first update: the parameters, and two moments of zero."""
    return {"params": params, "m": tree_map(ops.zeros_like, params), "v": tree_map(ops.zeros_like, params)}


def apply_gradients(
    ops: TensorOps, adamw: AdamW, state: Tree, grads: Tree, scalars: dict[str, Tensor]
) -> tuple[Tree, Tensor]:
    """Update `state` by AdamW. Returns the new state, and the gradient's norm before clipping."""
    params, m, v = state["params"], state["m"], state["v"]
    gradients = tree_leaves(grads)
    norm = ops.global_norm(gradients)
    numbers = AdamWScalars(
        scale=clip_scale(ops, norm, adamw.clip),
        **scalars,
        beta1=adamw.beta1,
        beta2=adamw.beta2,
        epsilon=adamw.epsilon,
    )
    decay = decay_rates(adamw, params)
    updated = ops.adamw_update(tree_leaves(params), gradients, tree_leaves(m), tree_leaves(v), decay, numbers)
    return {name: tree_unflatten(params, new) for name, new in zip(("params", "m", "v"), updated, strict=True)}, norm


def train_step(backend: Backend, config: GPT2Config, adamw: AdamW) -> Callable[..., tuple[Tree, dict[str, Any]]]:
    """A training step, compiled as a whole: (state, tokens, targets, scalars, key) -> (state, metrics).

    tokens and targets are [B, T]; `scalars` are `update_scalars` as tensors; `key` turns dropout on.
    The metrics, "loss" and "grad_norm", stay on the device. The old state must not be used again.
    """
    ops = backend.ops

    def loss(params: Tree, tokens: Tensor, targets: Tensor, key: Key | None) -> Tensor:
        return language_model_loss(ops, config, params, tokens, targets, key)

    value_and_grad = backend.value_and_grad(loss)

    def step(
        state: Tree, tokens: Tensor, targets: Tensor, scalars: dict[str, Tensor], key: Key | None
    ) -> tuple[Tree, dict[str, Any]]:
        value, grads = value_and_grad(state["params"], tokens, targets, key)
        state, norm = apply_gradients(ops, adamw, state, grads, scalars)
        return state, {"loss": value, "grad_norm": norm}

    return backend.jit_update(step)
