"""The required primitives in NumPy, differentiable by autograd; the composites keep their definitions.

This is the reference. It computes in any float dtype, and promotes none silently (see `strict`).
"""

from collections.abc import Sequence
from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd.extend import defvjp, defvjp_argnum, primitive
from autograd.numpy.numpy_vjps import unbroadcast_f
from autograd.tracer import getval

from gpt2spec.ops import NativeKey as Key
from gpt2spec.ops import NativeTensor as Tensor
from gpt2spec.ops import TensorOps
from gpt2spec_numpy.strict import StrictArray


@primitive
def _take(x: Any, indices: Any, axis: int) -> Any:
    return np.take(x, indices, axis=axis)


def _take_vjp(answer: Any, x: Any, indices: Any, axis: int) -> Any:
    shape, dtype = x.shape, x.dtype

    def vjp(g: Any) -> Any:
        gradient = np.zeros(shape, dtype).view(type(g))
        np.add.at(gradient, (slice(None),) * axis + (indices,), g)  # an entry taken twice counts twice
        return gradient

    return vjp


defvjp(_take, _take_vjp)


@primitive
def _take_along_axis(x: Any, indices: Any, axis: int) -> Any:
    return np.take_along_axis(x, indices, axis)


def _take_along_axis_vjp(answer: Any, x: Any, indices: Any, axis: int) -> Any:
    def vjp(g: Any) -> Any:
        gradient = np.zeros(x.shape, x.dtype).view(type(g))
        lines = [np.expand_dims(np.arange(n), tuple(j for j in range(g.ndim) if j != i)) for i, n in enumerate(g.shape)]
        lines[axis] = indices
        np.add.at(gradient, tuple(lines), g)
        return gradient

    return vjp


defvjp(_take_along_axis, _take_along_axis_vjp)


@primitive
def _where(condition: Any, a: Any, b: Any) -> Any:
    return np.where(condition, a, b)


# autograd's own gradient of `where` fills with float64 zeros, which would promote.
defvjp(
    _where,
    lambda answer, condition, a, b: unbroadcast_f(a, lambda g: np.where(condition, g, 0.0)),
    lambda answer, condition, a, b: unbroadcast_f(b, lambda g: np.where(condition, 0.0, g)),
    argnums=(1, 2),
)


@primitive
def _tanh(x: Any) -> Any:
    return np.tanh(x)


# autograd's own gradient of `tanh` squares cosh(x), which overflows.
defvjp(_tanh, lambda answer, x: lambda g: g * (1.0 - answer * answer))


@primitive
def _concat(axis: int, *xs: Any) -> Any:
    return np.concatenate(xs, axis)


def _concat_vjp(argnum: int, answer: Any, args: Any, kwargs: Any) -> Any:
    axis, *xs = args
    first = sum(x.shape[axis] for x in xs[: argnum - 1])
    own = (slice(None),) * axis + (slice(first, first + xs[argnum - 1].shape[axis]),)
    return lambda g: g[own]


defvjp_argnum(_concat, _concat_vjp)


@primitive
def _max(x: Any, axis: int, keepdims: bool) -> Any:
    return np.max(x, axis=axis, keepdims=keepdims)


def _max_vjp(answer: Any, x: Any, axis: int, keepdims: bool) -> Any:
    def vjp(g: Any) -> Any:
        """Shares g evenly among the largest values; autograd's own gradient would promote."""
        peak = answer if keepdims else np.expand_dims(answer, axis)
        hits = x == peak
        share = (g if keepdims else np.expand_dims(g, axis)) / np.sum(hits, axis=axis, keepdims=True).astype(x.dtype)
        return np.where(hits, share, 0.0)

    return vjp


defvjp(_max, _max_vjp)


class NumpyOps(TensorOps):
    """Reference tensor operations on `StrictArray`s."""

    def asarray(self, values: Any, dtype: str) -> Tensor:
        """A copy of its own, so that updates in place stay inside the backend."""
        return np.array(values, dtype=dtype, order="C").view(StrictArray)

    def full(self, shape: Sequence[int], value: float, dtype: str) -> Tensor:  # noqa: D102
        return np.full(shape, value, dtype).view(StrictArray)

    def arange(self, stop: int) -> Tensor:  # noqa: D102
        return np.arange(stop, dtype=np.int32).view(StrictArray)

    def astype(self, x: Tensor, dtype: str) -> Tensor:  # noqa: D102
        return x if x.dtype == dtype else x.astype(dtype)

    def stop_gradient(self, x: Tensor) -> Tensor:  # noqa: D102
        return getval(x)

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:  # noqa: D102
        return anp.reshape(x, tuple(shape))

    def permute_dims(self, x: Tensor, axes: Sequence[int]) -> Tensor:  # noqa: D102
        return anp.transpose(x, tuple(axes))

    def concat(self, xs: Sequence[Tensor], axis: int) -> Tensor:  # noqa: D102
        return _concat(axis % xs[0].ndim, *xs)

    def take(self, x: Tensor, indices: Tensor, axis: int) -> Tensor:  # noqa: D102
        return _take(x, indices, axis % x.ndim)

    def take_along_axis(self, x: Tensor, indices: Tensor, axis: int) -> Tensor:  # noqa: D102
        return _take_along_axis(x, indices, axis % x.ndim)

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:  # noqa: D102
        return anp.matmul(a, b)

    def where(self, condition: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:  # noqa: D102
        return _where(condition, a, b)

    def exp(self, x: Tensor) -> Tensor:  # noqa: D102
        return anp.exp(x)

    def log(self, x: Tensor) -> Tensor:  # noqa: D102
        return anp.log(x)

    def sqrt(self, x: Tensor) -> Tensor:  # noqa: D102
        return anp.sqrt(x)

    def tanh(self, x: Tensor) -> Tensor:  # noqa: D102
        return _tanh(x)

    def sum(self, x: Tensor, axis: int | None, keepdims: bool) -> Tensor:  # noqa: D102
        return anp.sum(x, axis=axis, keepdims=keepdims)

    def max(self, x: Tensor, axis: int, keepdims: bool) -> Tensor:  # noqa: D102
        return _max(x, axis, keepdims)

    def argmax(self, x: Tensor, axis: int) -> Tensor:  # noqa: D102
        return np.argmax(getval(x), axis).astype(np.int32)

    def cumulative_sum(self, x: Tensor, axis: int) -> Tensor:  # noqa: D102
        return self.astype(anp.cumsum(x, axis), x.dtype)

    def sort(self, x: Tensor, axis: int, descending: bool) -> Tensor:  # noqa: D102
        return self.take_along_axis(x, self.argsort(x, axis, descending), axis)

    def argsort(self, x: Tensor, axis: int, descending: bool) -> Tensor:
        """Sorts stably in both directions: descending order is the ascending order of the negated values."""
        values = getval(x)
        return np.argsort(-values if descending else values, axis, kind="stable").astype(np.int32)

    def fold_in(self, key: Key, index: int | Tensor) -> Key:
        """A longer tuple of whole numbers: keys are paths to dropout sites."""
        return (*key, int(index))

    def random_uniform(self, key: Key, shape: Sequence[int]) -> Tensor:
        """Draws from Philox, keyed by the path."""
        sequence = np.random.SeedSequence(key)
        values = np.random.Generator(np.random.Philox(sequence)).random(tuple(shape), dtype=np.float32)
        return values.view(StrictArray)
