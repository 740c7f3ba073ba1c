"""The operations in tinygrad. It fuses by itself, so the composites keep their definitions.

`contiguous` marks what is computed once and kept in memory; without it tinygrad would compute a value again
inside every loop that reads it. It is not for parts of an argument: what lies in one piece would stay a view of the
argument's buffer, and tinygrad 0.14 does not know that such a view is read before the buffer is written.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from tinygrad.dtype import dtypes
from tinygrad.tensor import Tensor as TinyTensor

from gpt2spec.ops import AdamWScalars, TensorOps
from gpt2spec.ops import NativeKey as Key
from gpt2spec.ops import NativeTensor as Tensor


class TinygradOps(TensorOps):
    """Tensor operations on one device.

    Attributes:
        device: where tensors are made, in tinygrad's words; a tuple of several to have them on each.
        in_place: `adamw_update` may assign to the old state: set while a program of `jit_update` is captured, in which
            tinygrad sees all that reads the old values, and lets it go first.
    """

    def __init__(self, dtype: str, device: str | tuple[str, ...]) -> None:
        super().__init__(dtype)
        self.device = device
        self.in_place = False

    def asarray(self, values: Any, dtype: str) -> Tensor:
        """Make a buffer of its own, because tinygrad would take a single number for a constant of the program."""
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
        """Draw two words from tinygrad's Threefry generator, counting from the index."""
        return self._random_bits(key, index, 2).contiguous()

    def random_uniform(self, key: Key, shape: Sequence[int]) -> Tensor:
        """Take the upper 24 bits of each word as a fraction."""
        bits = self._random_bits(key, 0, int(np.prod(shape)))
        return ((bits >> 8).cast(dtypes.float32) * 2.0**-24).reshape(tuple(shape)).contiguous()

    def _random_bits(self, key: Key, index: int | Tensor, count: int) -> Tensor:
        counter = TinyTensor.full((2,), index, dtype=dtypes.uint32, buffer=False)
        return TinyTensor.random_bits(key, counter, count)

    # ------------------------------------------------------------------ parts of a block

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: D102
        return _contiguous(super().linear(x, weight, bias))

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:  # noqa: D102
        return _contiguous(super().layer_norm(x, weight, bias, epsilon))

    def gelu_tanh(self, x: Tensor) -> Tensor:  # noqa: D102
        return _contiguous(super().gelu_tanh(x))

    def softmax(self, x: Tensor) -> Tensor:  # noqa: D102
        return _contiguous(super().softmax(x))

    # ------------------------------------------------------------------ optimizer

    def adamw_update(
        self,
        params: list[Tensor],
        grads: list[Tensor],
        m: list[Tensor],
        v: list[Tensor],
        decay: list[float],
        s: AdamWScalars,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Update in place where that is allowed; the definition would hold the whole new state beside the old one."""
        if not self.in_place:
            return super().adamw_update(params, grads, m, v, decay, s)
        for p, g, mean, square, rate in zip(params, grads, m, v, decay, strict=True):
            _assign_update(p, g, mean, square, rate, s)
        return params, m, v


def _assign_update(p: Tensor, g: Tensor, m: Tensor, v: Tensor, decay: float, s: AdamWScalars) -> None:
    """Assign by the formula of `TensorOps.adamw_update`; moments come first, so that the gradient's memory is freed."""
    g = s.scale * g
    m.assign(s.beta1 * m + (1.0 - s.beta1) * g)
    v.assign(s.beta2 * v + (1.0 - s.beta2) * (g * g))
    direction = (m / s.correction1) / ((v / s.correction2).sqrt() + s.epsilon)
    p.assign(p - s.lr * (direction + decay * p))


def _contiguous(x: Tensor) -> Tensor:
    """A tensor that is computed by itself, not within what reads it."""
    return x.contiguous()
