"""Gradient accumulation: one update from a batch that is computed in parts, one after another.

The loss of a batch is the mean over its tokens, so a part counts by its share of them:

    loss = sum over parts of share * (mean loss of the part),   share = tokens of the part / tokens of the batch

and the gradients likewise. The mean of the parts' means is another number unless all parts are of one size.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from gpt2spec.backend import Backend
from gpt2spec.config import GPT2Config
from gpt2spec.loss import language_model_loss
from gpt2spec.ops import Key, Tensor, TensorOps
from gpt2spec.optimizer import AdamW, apply_gradients, train_step
from gpt2spec.tree import Tree, tree_leaves, tree_map, tree_unflatten


class MicroBatch(NamedTuple):
    """A part of a batch on the device.

    Attributes:
        tokens: [b, T], some rows of the batch.
        targets: [b, T], the tokens that follow.
        share: [], of the batch's tokens.
        key: turns dropout on; each part has its own.
    """

    tokens: Tensor
    targets: Tensor
    share: Tensor
    key: Key | None


def shares(sizes: Sequence[int]) -> list[float]:
    """What each part counts for, from the numbers of their rows, which are all of one length."""
    return [size / sum(sizes) for size in sizes]


def empty_total(ops: TensorOps, params: Tree) -> Tree:
    """The sum over no parts yet: the loss, and gradients like the parameters."""
    return {"loss": ops.full((), 0.0, ops.reduce_dtype), "gradients": tree_map(ops.zeros_like, params)}


def add_micro_batch(backend: Backend, config: GPT2Config) -> Callable[..., tuple[Tree, Tensor]]:
    """Compiled: (total, params, *`MicroBatch`) -> (total with the part's loss and gradients, its loss times its share).

    The old total must not be used again.
    """
    ops = backend.ops

    def loss(params: Tree, tokens: Tensor, targets: Tensor, share: Tensor, key: Key | None) -> Tensor:
        return share * language_model_loss(ops, config, params, tokens, targets, key)

    value_and_grad = backend.value_and_grad(loss)

    def add(total: Tree, params: Tree, *part: Any) -> tuple[Tree, Tensor]:
        value, gradients = value_and_grad(params, *part)
        summed = ops.accumulate(tree_leaves(total["gradients"]), tree_leaves(gradients))
        return {"loss": total["loss"] + value, "gradients": tree_unflatten(params, summed)}, value

    return backend.jit_update(add)


Accept = Callable[[float, float], bool]
"""Told a batch's loss and its gradient's norm, whether the update is to be made."""


def accumulated_step(
    backend: Backend, config: GPT2Config, adamw: AdamW, accept: Accept | None = None
) -> Callable[..., tuple[Tree, dict[str, Any]]]:
    """One step: (state, micro-batches, scalars) -> (state, metrics), as `train_step` of the whole batch at once.

    A single micro-batch is `train_step` itself. Otherwise there are two programs: one adds a part, once compiled for
    each size of part; the other updates. So memory holds the activations of one part, and one more set of gradients.

    With `accept`, the step waits for the loss and the norm, and a refused batch leaves the state as it is: the metrics
    then have "skipped".
    """
    ops = backend.ops
    whole, add = train_step(backend, config, adamw), add_micro_batch(backend, config)

    def update(state: Tree, total: Tree, scalars: dict[str, Tensor]) -> tuple[Tree, dict[str, Any]]:
        state, norm = apply_gradients(ops, adamw, state, total["gradients"], scalars)
        return state, {"loss": total["loss"], "grad_norm": norm}

    finish = backend.jit_update(update)
    norm = backend.jit(lambda gradients: ops.global_norm(gradients))

    def refused(total: Tree) -> dict[str, Any]:
        """The metrics of a batch that is not accepted, or nothing."""
        if accept is None:
            return {}
        found = {"loss": total["loss"], "grad_norm": norm(tree_leaves(total["gradients"]))}
        return {} if accept(*(float(backend.to_numpy(x)) for x in found.values())) else {**found, "skipped": True}

    def step(state: Tree, parts: Sequence[MicroBatch], scalars: dict[str, Tensor]) -> tuple[Tree, dict[str, Any]]:
        if len(parts) == 1 and accept is None:
            return whole(state, parts[0].tokens, parts[0].targets, scalars, parts[0].key)
        total = empty_total(ops, state["params"])
        for i, part in enumerate(parts, start=1):
            with backend.deferring(i < len(parts)):
                total, _ = add(total, state["params"], *part)
        metrics = refused(total)
        return (state, metrics) if metrics else finish(state, total, scalars)

    return step
