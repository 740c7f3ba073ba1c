"""Gradient accumulation makes one update from a batch that is computed as several micro-batches in turn.

The loss of a batch is the mean over its tokens, so a micro-batch counts by its share of them:

    loss = sum of share * (mean loss of the micro-batch),   share = its tokens / tokens of the batch

The gradients are added up in the same way. The mean of the micro-batches' means would be another number unless all
micro-batches had the same size.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from gpt2spec.backend import Backend
from gpt2spec.config import GPT2Config
from gpt2spec.loss import language_model_loss
from gpt2spec.ops import Key, Tensor, TensorOps
from gpt2spec.optimizer import AdamW, apply_gradients, train_step
from gpt2spec.tree import Tree, tree_leaves, tree_map, tree_unflatten


class MicroBatch(NamedTuple):
    """Some rows of a batch, on the device.

    Attributes:
        tokens: [b, T], the rows.
        targets: [b, T], the tokens that follow them.
        share: [], their share of the batch's tokens.
        key: turns dropout on; each micro-batch has its own key.
    """

    tokens: Tensor
    targets: Tensor
    share: Tensor
    key: Key | None


def shares(sizes: Sequence[int]) -> list[float]:
    """The share of each micro-batch, from their numbers of rows, which all have the same length."""
    return [size / sum(sizes) for size in sizes]


def empty_total(ops: TensorOps, params: Tree) -> Tree:
    """The total before the first micro-batch: a loss of 0, and gradients of 0 in the shapes of the parameters."""
    return {"loss": ops.full((), 0.0, ops.reduce_dtype), "gradients": tree_map(ops.zeros_like, params)}


def add_micro_batch(backend: Backend, config: GPT2Config) -> Callable[..., tuple[Tree, Tensor]]:
    """A compiled function that adds a micro-batch: (total, params, *`MicroBatch`) -> (new total, share * its loss).

    The old total must not be used again.
    """
    ops = backend.ops

    def loss(params: Tree, tokens: Tensor, targets: Tensor, share: Tensor, key: Key | None) -> Tensor:
        return share * language_model_loss(ops, config, params, tokens, targets, key)

    value_and_grad = backend.value_and_grad(loss)

    def add(total: Tree, params: Tree, *micro_batch: Tensor | Key | None) -> tuple[Tree, Tensor]:
        value, gradients = value_and_grad(params, *micro_batch)
        summed = ops.accumulate(tree_leaves(total["gradients"]), tree_leaves(gradients))
        return {"loss": total["loss"] + value, "gradients": tree_unflatten(params, summed)}, value

    return backend.jit_update(add)


Metrics = Mapping[str, Tensor | bool]
"""The "loss" and "grad_norm" of a step, and whether it was "skipped"."""
Accept = Callable[[float, float], bool]
"""(loss of a batch, norm of its gradient) -> whether the update is made."""


def accumulated_step(
    backend: Backend, config: GPT2Config, adamw: AdamW, accept: Accept | None = None
) -> Callable[..., tuple[Tree, Metrics]]:
    """A training step: (state, micro-batches, scalars) -> (state, metrics), with the result of `train_step`.

    A single micro-batch is computed by `train_step` itself. Otherwise there are two programs: one adds a micro-batch
    and is compiled for each size of them; the other updates the parameters. So memory holds the activations of one
    micro-batch, and one more set of gradients.

    With `accept`, the step waits for the loss and the norm. A refused batch leaves the state as it is, and its metrics
    have "skipped".
    """
    ops = backend.ops
    whole, add = train_step(backend, config, adamw), add_micro_batch(backend, config)

    def update(state: Tree, total: Tree, scalars: dict[str, Tensor]) -> tuple[Tree, dict[str, Tensor]]:
        state, norm = apply_gradients(ops, adamw, state, total["gradients"], scalars)
        return state, {"loss": total["loss"], "grad_norm": norm}

    finish = backend.jit_update(update)
    norm = backend.jit(lambda gradients: ops.global_norm(gradients))

    def refused(total: Tree) -> Metrics:
        """The metrics of a batch that is not accepted; empty for one that is."""
        if accept is None:
            return {}
        found = {"loss": total["loss"], "grad_norm": norm(tree_leaves(total["gradients"]))}
        return {} if accept(*(float(backend.to_numpy(x)) for x in found.values())) else {**found, "skipped": True}

    def step(state: Tree, micro_batches: Sequence[MicroBatch], scalars: dict[str, Tensor]) -> tuple[Tree, Metrics]:
        if len(micro_batches) == 1 and accept is None:
            batch = micro_batches[0]
            return whole(state, batch.tokens, batch.targets, scalars, batch.key)
        total = empty_total(ops, state["params"])
        for i, micro_batch in enumerate(micro_batches, start=1):
            with backend.deferring(i < len(micro_batches)):
                total, _ = add(total, state["params"], *micro_batch)
        metrics = refused(total)
        return (state, metrics) if metrics else finish(state, total, scalars)

    return step
