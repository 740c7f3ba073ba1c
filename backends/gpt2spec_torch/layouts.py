"""Operations that depend on how weights are laid out: here for tensors, and for blocks as a list of trees of them.

Other layouts, those of `decoding` and of `sharded`, register operations of their own.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2spec.ops import TensorOps


class ByLayout:
    """An operation that depends on the type of its first argument, like those of `functools.singledispatch`.

    That one notes every type it meets, and programs of Dynamo that have looked into its notes would be compiled again.
    """

    def __init__(self, operation: Callable[..., Any]) -> None:
        self._default, self._others = operation, dict[type, Callable[..., Any]]()

    def register(self, *layouts: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorates the operation for these types; subclasses are types of their own."""

        def add(operation: Callable[..., Any]) -> Callable[..., Any]:
            self._others.update(dict.fromkeys(layouts, operation))
            return operation

        return add

    def __call__(self, weights: Any, *args: Any, **kwargs: Any) -> Any:
        """The result of the operation for the layout of `weights`."""
        return self._others.get(type(weights), self._default)(weights, *args, **kwargs)


@ByLayout
def linear(weight: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    """x W + b by one matrix product for all rows; weights [in, out] get gradients that lie in memory like them."""
    y = torch.addmm(bias, x.reshape(-1, x.shape[-1]), weight)
    return y.reshape(*x.shape[:-1], weight.shape[1])


@ByLayout
def unembed(wte: Tensor, x: Tensor) -> Tensor:
    """x W_e^T: [..., D] x [V, D] -> [..., V]."""
    return torch.matmul(x, wte.permute(1, 0))


@ByLayout
def take(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """Entries of `x` along an axis, whose place the shape of `indices` takes."""
    axis %= x.ndim
    if axis == 0 and x.ndim == 2:
        return F.embedding(indices, x)
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    return x.index_select(axis, indices.reshape(-1)).reshape(shape)


@ByLayout
def scan_blocks(
    blocks: list[Any], ops: TensorOps, block: Callable[..., tuple[Any, ...]], x: Any, *others: Any, **shared: Any
) -> tuple[Any, ...]:
    """The loop over the layers: see `TensorOps.scan_blocks`."""
    return TensorOps.scan_blocks(ops, block, x, blocks, *others, **shared)
