"""A step of decoding as one CUDA graph: recorded once, then started by one call where there were hundreds of kernels.

A graph reads and writes the memory it was recorded with. So arguments that change from step to step are copied into
tensors that are kept for it, and results are copied before the next step overwrites them.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gpt2spec.tree import tree_map

Update = Callable[..., tuple[Any, Any]]
Record = Callable[[Callable[[], Any]], tuple[Callable[[], None], Any]]
"""Takes a function, without running it, and returns what runs it again on the same memory, and its results' memory."""


class RecordedStep:
    """An update `f(state, *args) -> (state, aux)` in place, recorded when it is called again with the same trees.

    Arguments that are tensors by themselves may be others each time. The tensors in trees, the weights and the state,
    have to be the very same: others are recorded anew. The first call with others is not recorded; it may compile.
    """

    def __init__(self, update: Update, record: Record) -> None:
        self._update, self._record = update, record
        self._trees: list[weakref.ref[Tensor]] = []
        self._shapes: list[Any] = []
        self._inputs: list[Tensor] = []
        self._outputs: Any = None
        self._replay: Callable[[], None] | None = None

    def __call__(self, state: Any, *args: Any) -> tuple[Any, Any]:
        """The new state and the results, as the update returns them."""
        given = [x for x in args if isinstance(x, Tensor)]
        if not self._knows(state, args, given):
            self._forget(state, args, given)
            return self._update(state, *args)
        if self._replay is None:
            self._begin(state, args, given)
        else:
            for kept, x in zip(self._inputs, given, strict=True):
                kept.copy_(x)
        assert self._replay is not None
        self._replay()
        return state, tree_map(torch.clone, self._outputs)

    def _knows(self, state: Any, args: Sequence[Any], given: Sequence[Tensor]) -> bool:
        trees = _first_of_trees(state, args)
        same = len(trees) == len(self._trees) and all(ref() is x for ref, x in zip(self._trees, trees, strict=True))
        return same and self._shapes == [(x.shape, x.dtype) for x in given]

    def _forget(self, state: Any, args: Sequence[Any], given: Sequence[Tensor]) -> None:
        self._trees = [weakref.ref(x) for x in _first_of_trees(state, args)]
        self._shapes = [(x.shape, x.dtype) for x in given]
        self._inputs, self._outputs, self._replay = [], None, None

    def _begin(self, state: Any, args: Sequence[Any], given: Sequence[Tensor]) -> None:
        self._inputs = [x.clone() for x in given]
        kept = iter(self._inputs)
        recorded = [next(kept) if isinstance(x, Tensor) else x for x in args]
        self._replay, self._outputs = self._record(lambda: self._update(state, *recorded)[1])


def _first_of_trees(state: Any, args: Sequence[Any]) -> list[Tensor]:
    """One tensor of each tree: trees are never changed, so that it stands for all of them."""
    return [_first(tree) for tree in (state, *(x for x in args if not isinstance(x, Tensor)))]


def _first(tree: Any) -> Tensor:
    while not isinstance(tree, Tensor):
        tree = next(iter(tree.values() if isinstance(tree, dict) else tree))
    return tree


def cuda_graph(function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """Record what a function does on the current CUDA device."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function()
    return graph.replay, outputs
