"""A block of the model for one row of decoding, as one program: no Python stands between its products.

It is the model's own block, traced with weights and attention that are written as loops.
"""

import functools
import hashlib
import inspect
import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpt2spec.backend import tree_leaves, tree_unflatten
from gpt2spec_torch.ahead_of_time import Recipe, program
from gpt2spec_torch.few_rows import FewRowsWeight
from gpt2spec_torch.row_kernel import row_product

Block = Callable[..., tuple[Any, ...]]
LARGE = 1 << 20
"""So many weights in a block are worth the time that it takes to compile a program for their shapes."""
SOURCES = ("gpt2spec.ops", *(f"gpt2spec_torch.{name}" for name in ("ops", "few_rows", "row_kernel", "row_block")))
"""Modules that a program is made from, beside the model's own."""


class RowBlockWeights(dict[str, Any]):
    """The weights of a block, and the same as a list of tensors: what its program takes."""

    def __init__(self, tree: dict[str, Any]) -> None:
        super().__init__(tree)
        self.tensors: list[Tensor] = []
        for leaf in tree_leaves(tree):
            self.tensors += [leaf.rows, leaf.scale] if isinstance(leaf, FewRowsWeight) else [leaf]


def worth_a_program(tree: dict[str, Any]) -> bool:
    """Whether the weights of a block, laid out for few rows, are many."""
    return sum(math.prod(leaf.shape) for leaf in tree_leaves(tree) if isinstance(leaf, FewRowsWeight)) >= LARGE


def row_block(block: Block, p: RowBlockWeights, c: dict[str, Tensor], config: Any) -> Block | None:
    """`block` for one token of one row, with weights like `p` and a cache like `c`: compiled, if it can be.

    It overwrites the cache. The program serves every block of the shape, whatever the cache's capacity.
    """
    name = _name(block.__module__, config, tuple(x.dtype for x in (c["k"], *p.tensors)))
    compiled = program(name, functools.partial(_recipe, block, p, c, config))
    if compiled is None:
        return None

    def run(x: Tensor, i: int, p: RowBlockWeights, c: dict[str, Tensor], *, start: Tensor, **shared: Any) -> Any:
        return compiled(x, start, c["k"], c["v"], *p.tensors), c, {}

    return run


def row_attention(q: Tensor, k: Tensor, v: Tensor, start: Tensor) -> Tensor:
    """Attention of the one query of one row, in float32: [1, H, 1, d] and 2 x [1, H, C, d] -> [1, H, 1, d]."""
    seen = start.item() + 1
    torch._check(seen >= 1)  # type: ignore[no-untyped-call]
    torch._check(seen <= k.shape[2])  # type: ignore[no-untyped-call]
    k, v = (x[:, :, :seen].to(torch.float32) for x in (k, v))
    weights = torch.softmax((q.to(torch.float32) * k).sum(-1) / math.sqrt(q.shape[-1]), -1)  # [1, H, seen]
    return (weights[..., None] * v).sum(2, keepdim=True)


class _LoopWeight(FewRowsWeight):
    """A weight while a program is traced."""

    def __init__(self, rows: Tensor, scale: Tensor) -> None:
        self.rows, self.scale, self.shape = rows, scale, rows.T.shape

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """By a loop over all of the weight."""
        assert bias is not None
        return row_product(x, self.rows, self.scale, bias.to(torch.float32)).reshape(*x.shape[:-1], -1)


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
    """Of the program for blocks of a model that is defined in `module`: another one when its source has changed."""
    shape = f"{config.n_head} heads of {config.head_width}, {config.layer_norm_epsilon}, {dtypes}"
    sources = [inspect.getsource(sys.modules[name]) for name in (module, *SOURCES)]
    return "block-" + hashlib.blake2b("\0".join([shape, *sources]).encode(), digest_size=8).hexdigest()
