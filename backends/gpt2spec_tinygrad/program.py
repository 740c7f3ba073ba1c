"""Functions of trees of tensors as TinyJit programs, one for each combination of shapes.

What TinyJit asks of its caller is seen to here: inputs are distinct real buffers passed one by one, shapes
never change, and results are copied out, because the next run of the program writes into the same buffers.
"""

from collections.abc import Callable, Hashable
from typing import Any

from tinygrad.engine.jit import TinyJit
from tinygrad.tensor import Tensor
from tinygrad.uop import Ops

TENSOR = object()
"""Stands in a tree for a tensor."""


def compiled(function: Callable[..., Any], updates: bool) -> Callable[..., Any]:
    """`function`, captured when it first meets a combination of shapes and replayed from then on.

    With `updates` it is `f(state, *args) -> (state, aux)`, and the new state is assigned to the old one.
    """
    programs: dict[Hashable, Program] = {}

    def run(*args: Any) -> Any:
        tensors, frame = split(args)
        signature = (repr(frame), *((x.shape, x.dtype) for x in tensors))
        if signature not in programs:
            programs[signature] = Program(function, frame, updates)
        results = programs[signature](tensors)
        return (args[0], results) if updates else results

    return run


class Program:
    """One TinyJit: its tensors go in and come out as flat lists, and the trees are put together outside."""

    def __init__(self, function: Callable[..., Any], frame: Any, updates: bool) -> None:
        self.function, self.frame, self.updates = function, frame, updates
        self.result_frame: Any = None
        self.jit = TinyJit(self.trace)
        self.jit.cnt = 1  # capture at the first call: nothing in the function wants a call to get ready

    def __call__(self, tensors: list[Tensor]) -> Any:
        """The results of the program for these tensors, in memory of their own."""
        results = [x.clone() for x in self.jit(*distinct(tensors))]
        Tensor.realize(*results)
        return join(self.result_frame, results)

    def trace(self, *tensors: Tensor) -> list[Tensor]:
        """The function on its trees; the new state and the results are computed together."""
        args = join(self.frame, list(tensors))
        buffers = {buffer_of(x) for x in tensors}
        results = self.function(*args)
        state, new = [], []
        if self.updates:
            updated, results = results
            state, new = split(args[0])[0], split(updated)[0]
        leaves, self.result_frame = split(results)

        def settled(x: Tensor) -> Tensor:
            """Copy tensors that are passed through, because their buffers may be replaced or overwritten next time."""
            return x.clone() if buffer_of(x) in buffers else x.contiguous()

        outputs = [settled(x) for x in leaves]
        pairs = [(old, x if x is old else settled(x)) for old, x in zip(state, new, strict=True)]
        Tensor.realize(*outputs, *(old.assign(x) for old, x in pairs))
        return outputs


def split(tree: Any) -> tuple[list[Tensor], Any]:
    """The tensors of nested dicts, lists and tuples in order, and the same tree with `TENSOR` in their places."""
    tensors: list[Tensor] = []

    def visit(node: Any) -> Any:
        if isinstance(node, dict):
            return {name: visit(child) for name, child in node.items()}
        if isinstance(node, (list, tuple)):
            return type(node)(visit(child) for child in node)
        if isinstance(node, Tensor):
            tensors.append(node)
            return TENSOR
        return node

    frame = visit(tree)
    return tensors, frame


def join(frame: Any, tensors: list[Tensor]) -> Any:
    """The inverse of `split`."""
    remaining = iter(tensors)

    def visit(node: Any) -> Any:
        if isinstance(node, dict):
            return {name: visit(child) for name, child in node.items()}
        if isinstance(node, (list, tuple)):
            return type(node)(visit(child) for child in node)
        return next(remaining) if node is TENSOR else node

    return visit(frame)


def buffer_of(x: Tensor) -> Any:
    """The buffer that `x` is or is a part of, also once something was assigned to it; or what computes `x`."""
    node = x.uop.base
    while node.op is Ops.AFTER:
        node = node.src[0].base
    return node


def distinct(tensors: list[Tensor]) -> list[Tensor]:
    """The tensors as TinyJit takes them: realized, and each with a buffer that no other one has."""
    seen: set[Any] = set()
    result = []
    Tensor.realize(*tensors)
    for x in tensors:
        if x.uop.is_virtual or x.uop.base in seen:
            x = x.clone().realize()
        seen.add(x.uop.base)
        result.append(x)
    return result
