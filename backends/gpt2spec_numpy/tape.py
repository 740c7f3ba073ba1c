"""Gradients on the tape of the `autograd` package, with many inputs and a backward pass that frees as it goes.

`autograd.grad` of a dict of weights would route every weight through container nodes and copy it. Here each
leaf is a root of the tape of its own, and what a node saved for its backward is dropped once it was used.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from autograd.core import VJPNode, add_outgrads
from autograd.extend import defvjp_argnums, primitive
from autograd.tracer import getval, isbox, new_box, toposort, trace_stack

from gpt2spec.tree import tree_leaves, tree_unflatten


def value_and_grad(function: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    """Turns `f(tree, *args) -> []` into `(tree, *args) -> (value, gradients like the tree)`."""

    def evaluate(tree: Any, *args: Any) -> tuple[Any, Any]:
        leaves = tree_leaves(tree)
        with trace_stack.new_trace() as trace:
            roots = [VJPNode.new_root() for _ in leaves]
            boxes = [new_box(leaf, trace, root) for leaf, root in zip(leaves, roots, strict=True)]
            result = function(tree_unflatten(tree, boxes), *args)
        value, end = (getval(result), result._node) if isbox(result) else (result, None)
        gradients = backward(end, np.ones_like(value), roots) if end is not None else [None] * len(roots)
        filled = [np.zeros_like(x) if g is None else g for x, g in zip(leaves, gradients, strict=True)]
        return value, tree_unflatten(tree, filled)

    return evaluate


def backward(end: VJPNode, gradient: Any, roots: list[VJPNode]) -> list[Any]:
    """Gradients with respect to `roots`; None for a root that does not matter. Consumes the tape."""
    outgoing = {end: (gradient, False)}
    found: dict[VJPNode, Any] = {}
    wanted = set(roots)
    order = list(toposort(end))
    for node in order:
        total, _ = outgoing.pop(node)
        if node in wanted:
            found[node] = total
            continue
        fresh = getattr(node.vjp, "fresh", False)  # its gradients are new arrays, which may be added to in place
        for parent, gradient in zip(node.parents, node.vjp(total), strict=True):
            before = outgoing.get(parent)
            total, mutable = add_outgrads(before, gradient)
            outgoing[parent] = (total, mutable or (fresh and before is None))
        node.vjp, node.parents = None, ()  # what the node saved may go
    return [found.get(root) for root in roots]


def fused(forward: Callable[..., Any], backward: Callable[..., tuple[Any, ...]]) -> Callable[..., Any]:
    """A differentiable function whose gradients are computed together.

    `forward(saved, *args)` may put what the backward needs into the dict `saved`;
    `backward(saved, g, *args)` returns the gradients of the leading args, in new arrays of their own
    (which the tape may then add to in place). Neither may write to its arguments.
    """
    operation = primitive(forward)

    def make_vjp(argnums: Sequence[int], answer: Any, args: Sequence[Any], kwargs: Any) -> Callable[[Any], Any]:
        saved, *inputs = args

        def vjp(g: Any) -> Iterator[Any]:
            gradients = backward(saved, g, *inputs)
            return (gradients[i - 1] for i in argnums)

        vjp.fresh = True  # type: ignore[attr-defined]  # read by `backward`
        return vjp

    defvjp_argnums(operation, make_vjp)
    return lambda *args: operation({}, *args)
