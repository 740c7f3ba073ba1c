"""A block of the model for one row of decoding, as one program: no Python runs between its products.

The program is the model's own block, traced with weights and attention that are written as loops.
"""

import functools
import hashlib
import inspect
import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gpt2spec.ops import TensorOps
from gpt2spec.tree import tree_leaves, tree_unflatten
from gpt2spec_torch import layouts
from gpt2spec_torch.decoding.ahead_of_time import Recipe, program
from gpt2spec_torch.decoding.few_rows import FewRowsWeight
from gpt2spec_torch.decoding.row_kernel import row_product

Block = Callable[..., tuple[Any, ...]]
LARGE = 1 << 20
"""The number of weights in a block from which on compiling a program for their shapes is worth its time."""
SOURCES = (
    "gpt2spec.ops",
    "gpt2spec_torch.ops",
    "gpt2spec_torch.layouts",
    *(f"gpt2spec_torch.decoding.{name}" for name in ("few_rows", "row_kernel", "row_block")),
)
"""The modules that a program is made from, beside the model's own."""


class RowBlockWeights(dict[str, Any]):
    """The weights of a block, laid out for few rows, and the list of tensors that its program takes."""

    def __init__(self, tree: dict[str, Any]) -> None:
        super().__init__(tree)
        self.tensors: list[Tensor] = []
        for leaf in tree_leaves(tree):
            self.tensors += [leaf.rows, leaf.scale] if isinstance(leaf, FewRowsWeight) else [leaf]


class RowBlocks(list[RowBlockWeights]):
    """The weights of all blocks."""

    def __init__(self, trees: list[dict[str, Any]]) -> None:
        super().__init__(map(RowBlockWeights, trees))


@layouts.scan_blocks.register(RowBlocks)
def scan_blocks(blocks: RowBlocks, ops: Any, block: Block, x: Any, caches: list[Any], **shared: Any) -> Any:
    """One token of one row passes through programs, where blocks are compiled; other rows as through any blocks.

    The program is made while the row's prompt is read, before its first token is waited for.
    """
    if ops.compile_blocks and x.shape[0] == 1:
        program = row_block(block, blocks[0], caches[0], shared["config"])
        if x.shape[1] == 1 and shared["start"] is not None:
            block = program or block
    return TensorOps.scan_blocks(ops, block, x, blocks, caches, **shared)


def worth_a_program(tree: dict[str, Any]) -> bool:
    """Whether the weights of a block, laid out for few rows, are many."""
    return sum(math.prod(leaf.shape) for leaf in tree_leaves(tree) if isinstance(leaf, FewRowsWeight)) >= LARGE


def row_block(block: Block, p: RowBlockWeights, c: dict[str, Tensor], config: Any) -> Block | None:
    """`block` for one token of one row, with weights like `p` and a cache like `c`; None where it cannot be compiled.

    It overwrites the cache. One program serves every block of the shape, whatever the cache's capacity.
    """
    name = _name(block.__module__, config, tuple(x.dtype for x in (c["k"], *p.tensors)))
    compiled = program(name, functools.partial(_recipe, block, p, c, config))
    if compiled is None:
        return None

    def run(x: Tensor, i: int, p: RowBlockWeights, c: dict[str, Tensor], *, start: Tensor, **shared: Any) -> Any:
        return compiled(x, start, c["k"], c["v"], *p.tensors), c, {}

    return run


class _LoopWeight(NamedTuple):
    """A weight while a program is traced; see `FewRowsWeight`."""

    rows: Tensor
    scale: Tensor


@layouts.linear.register(_LoopWeight)
def _linear(weight: _LoopWeight, x: Tensor, bias: Tensor) -> Tensor:
    """x W + b in the dtype of `x`, written as a loop over all of the weight."""
    y = row_product(x, weight.rows, weight.scale, bias.to(torch.float32))
    return y.reshape(*x.shape[:-1], -1).to(x.dtype)


class _RowBlock(torch.nn.Module):
    """The block as a function of tensors."""

    def __init__(self, block: Block, frame: RowBlockWeights, config: Any) -> None:
        super().__init__()
        self.block, self.frame, self.config = block, frame, config

    def forward(self, x: Tensor, start: Tensor, k: Tensor, v: Tensor, tensors: list[Tensor]) -> Tensor:
        remaining = iter(tensors)
        leaves = [
            _LoopWeight(next(remaining), next(remaining)) if isinstance(leaf, FewRowsWeight) else next(remaining)
            for leaf in tree_leaves(self.frame)
        ]
        p = tree_unflatten(self.frame, leaves)
        return self.block(x, 0, p, {"k": k, "v": v}, config=self.config, start=start, length=None)[0]


def _recipe(block: Block, p: RowBlockWeights, c: dict[str, Tensor], config: Any) -> Recipe:
    x = torch.zeros(1, 1, config.n_embd, dtype=c["k"].dtype)
    caches = [torch.zeros_like(c[name]) for name in ("k", "v")]
    example = (x, torch.zeros(1, dtype=torch.int32), *caches, p.tensors)
    capacity = torch.export.Dim("capacity", min=2, max=1 << 20)
    return _RowBlock(block, p, config), example, (None, None, {2: capacity}, {2: capacity}, [None] * len(p.tensors))


@functools.cache
def _name(module: str, config: Any, dtypes: tuple[torch.dtype, ...]) -> str:
    """The name of the program for the blocks of a model defined in `module`; another one when its source changes."""
    shape = f"{config.n_head} heads of {config.head_width}, {config.layer_norm_epsilon}, {dtypes}"
    sources = [inspect.getsource(sys.modules[name]) for name in (module, *SOURCES)]
    return "block-" + hashlib.blake2b("\0".join([shape, *sources]).encode(), digest_size=8).hexdigest()
