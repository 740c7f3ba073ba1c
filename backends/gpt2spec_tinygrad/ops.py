"""The operations in tinygrad. It fuses by itself, so the composites keep their definitions.

`contiguous` marks what is computed once and kept in memory; without it tinygrad would compute a value again
inside every loop that reads it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from tinygrad.dtype import dtypes
from tinygrad.tensor import Tensor as TinyTensor

from gpt2spec.ops import Key, Tensor, TensorOps


class TinygradOps(TensorOps):
    """Tensor operations on one device.

    Attributes:
        device: where tensors are made, in tinygrad's words.
    """

    def __init__(self, dtype: str, device: str) -> None:
        super().__init__(dtype)
        self.device = device

    def asarray(self, values: Any, dtype: str) -> Tensor:
        """A buffer of its own: tinygrad would take a single number for a constant of the program."""
        x = TinyTensor(np.array(values), device=self.device).cast(getattr(dtypes, dtype))
        return x.clone(self.device).realize()

    def full(self, shape: Sequence[int], value: float, dtype: str) -> Tensor:  # noqa: D102
        return TinyTensor.full(tuple(shape), value, dtype=getattr(dtypes, dtype), device=self.device)

    def arange(self, stop: int) -> Tensor:  # noqa: D102
        return TinyTensor.arange(stop, dtype=dtypes.int32)

    def astype(self, x: Tensor, dtype: str) -> Tensor:  # noqa: D102
        return x.cast(getattr(dtypes, dtype))

    def stop_gradient(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.detach()

    # ------------------------------------------------------------------ shape and indexing

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:  # noqa: D102
        return x.reshape(tuple(shape))

    def permute_dims(self, x: Tensor, axes: Sequence[int]) -> Tensor:  # noqa: D102
        return x.permute(tuple(axes))

    def concat(self, xs: Sequence[Tensor], axis: int) -> Tensor:  # noqa: D102
        return xs[0].cat(*xs[1:], dim=axis)

    def take(self, x: Tensor, indices: Tensor, axis: int) -> Tensor:  # noqa: D102
        return x[(slice(None),) * (axis % x.ndim) + (indices,)]

    def take_along_axis(self, x: Tensor, indices: Tensor, axis: int) -> Tensor:  # noqa: D102
        return x.gather(axis, indices)

    # ------------------------------------------------------------------ arithmetic

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:  # noqa: D102
        return a.matmul(b)

    def where(self, condition: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:  # noqa: D102
        return condition.where(a, b)

    def exp(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.exp()

    def log(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.log()

    def sqrt(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.sqrt()

    def tanh(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.tanh()

    # ------------------------------------------------------------------ along an axis

    def sum(self, x: Tensor, axis: int | None, keepdims: bool) -> Tensor:  # noqa: D102
        return x.sum(axis, keepdim=keepdims).cast(x.dtype)

    def max(self, x: Tensor, axis: int, keepdims: bool) -> Tensor:  # noqa: D102
        return x.max(axis, keepdim=keepdims)

    def argmax(self, x: Tensor, axis: int) -> Tensor:  # noqa: D102
        return x.argmax(axis).cast(dtypes.int32)

    def cumulative_sum(self, x: Tensor, axis: int) -> Tensor:  # noqa: D102
        return x.cumsum(axis).cast(x.dtype)

    def sort(self, x: Tensor, axis: int, descending: bool) -> Tensor:  # noqa: D102
        return x.sort(axis, descending)[0]

    def argsort(self, x: Tensor, axis: int, descending: bool) -> Tensor:  # noqa: D102
        return x.sort(axis, descending)[1].cast(dtypes.int32)

    # ------------------------------------------------------------------ randomness

    def fold_in(self, key: Key, index: int | Tensor) -> Key:
        """Two words of tinygrad's Threefry generator, counting from the index."""
        return self._random_bits(key, index, 2).contiguous()

    def random_uniform(self, key: Key, shape: Sequence[int]) -> Tensor:
        """The upper 24 bits of each word, as a fraction."""
        bits = self._random_bits(key, 0, int(np.prod(shape)))
        return ((bits >> 8).cast(dtypes.float32) * 2.0**-24).reshape(tuple(shape)).contiguous()

    def _random_bits(self, key: Key, index: int | Tensor, count: int) -> Tensor:
        counter = TinyTensor.full((2,), index, dtype=dtypes.uint32, buffer=False)
        return TinyTensor.random_bits(key, counter, count)

    # ------------------------------------------------------------------ parts of a block

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: D102
        return super().linear(x, weight, bias).contiguous()

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:  # noqa: D102
        return super().layer_norm(x, weight, bias, epsilon).contiguous()

    def gelu_tanh(self, x: Tensor) -> Tensor:  # noqa: D102
        return super().gelu_tanh(x).contiguous()

    def softmax(self, x: Tensor) -> Tensor:  # noqa: D102
        return super().softmax(x).contiguous()
