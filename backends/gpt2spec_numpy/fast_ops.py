"""Tensor operations for speed: plain arrays, fused composites, and an optimizer that works in place."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from autograd.tracer import isbox

from gpt2spec.ops import AdamWScalars
from gpt2spec.ops import NativeKey as Key
from gpt2spec.ops import NativeTensor as Tensor
from gpt2spec_numpy import head, kernels
from gpt2spec_numpy.cores import in_pieces
from gpt2spec_numpy.ops import NumpyOps


class FastNumpyOps(NumpyOps):
    """Operations on NumPy arrays, without checks; each override agrees with the definition in `TensorOps`.

    Attributes:
        in_place: `cache_write` and `accumulate` may overwrite the old state: set while `jit_update` runs.
    """

    in_place = False

    def asarray(self, values: Any, dtype: str) -> Tensor:
        """A copy of its own: the optimizer writes into it."""
        return np.array(values, dtype=dtype, order="C")

    def full(self, shape: Sequence[int], value: float, dtype: str) -> Tensor:
        """Zeros come untouched from the system, which is free."""
        return np.zeros(shape, dtype) if value == 0.0 else np.full(shape, value, dtype)

    def arange(self, stop: int) -> Tensor:  # noqa: D102
        return np.arange(stop, dtype=np.int32)

    def random_uniform(self, key: Key, shape: Sequence[int]) -> Tensor:  # noqa: D102
        return super().random_uniform(key, shape).view(np.ndarray)

    def take(self, x: Tensor, indices: Tensor, axis: int) -> Tensor:
        """Rows have a kernel of their own, since the gradient of an embedding is nearly all zeros."""
        return kernels.rows(x, indices) if axis == 0 and x.ndim == 2 else super().take(x, indices, axis)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: D102
        return kernels.linear(x, weight, bias)

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:  # noqa: D102
        return kernels.layer_norm(x, weight, bias, epsilon)

    def gelu_tanh(self, x: Tensor) -> Tensor:  # noqa: D102
        return kernels.gelu_tanh(x)

    def split_heads(self, x: Tensor, n_head: int) -> tuple[Tensor, Tensor, Tensor]:  # noqa: D102
        q, k, v = (kernels.heads(x, third, n_head) for third in range(3))
        return q, k, v

    def causal_attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        start: Tensor | None = None,
        dropout: float = 0.0,
        key: Key | None = None,
    ) -> Tensor:
        """Attention from position 0 is fused; cached rows and dropout on the weights take the definition."""
        if start is None and (key is None or dropout == 0.0):
            return kernels.causal_attention(q, k, v)
        return super().causal_attention(q, k, v, start=start, dropout=dropout, key=key)

    def cache_write(self, cache: Tensor, new: Tensor, start: Tensor | None) -> Tensor:
        """Writes slices, into the cache itself where its old content is not needed any more."""
        cache = cache if self.in_place else cache.copy()
        for row, first in enumerate(np.zeros(len(new), int) if start is None else start):
            cache[row, :, first : first + new.shape[2]] = new[row]
        return cache

    def head_cross_entropy(self, x: Tensor, wte: Tensor, targets: Tensor) -> Tensor:
        """Some positions at a time, see `head`; gradients are computed only where something is differentiated."""
        if isbox(x) or isbox(wte):
            return head.head_cross_entropy(x, wte, targets)
        rows = x.reshape(-1, x.shape[-1])
        return np.asarray(head.head_losses(rows, wte, targets.reshape(-1), None) / targets.size, x.dtype)

    def global_norm(self, tensors: Sequence[Tensor]) -> Tensor:
        """Sums squares piece by piece, and the pieces in float64."""

        def square(x: Any) -> float:
            flat = x.reshape(-1)

            def work(piece: slice) -> float:
                return float(np.einsum("i,i->", flat[piece], flat[piece]))

            return sum(in_pieces(work, flat.size, 1))

        return np.asarray(math.sqrt(sum(map(square, tensors))), self.reduce_dtype)

    def accumulate(self, totals: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Adds in place where that is allowed, so that there is no third set of gradients."""
        if not self.in_place:
            return super().accumulate(totals, gradients)
        return [np.add(total, gradient, out=total) for total, gradient in zip(totals, gradients, strict=True)]

    def adamw_update(
        self,
        params: list[Tensor],
        grads: list[Tensor],
        m: list[Tensor],
        v: list[Tensor],
        decay: list[float],
        s: AdamWScalars,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Updates in place and piece by piece, so that each value goes through memory once."""
        lr, correction1, correction2, factor = map(_number, (s.lr, s.correction1, s.correction2, s.scale))
        step, root = lr / correction1, 1.0 / correction2
        for *tensors, rate in zip(params, grads, m, v, decay, strict=True):
            flat = [x.reshape(-1) for x in tensors]
            kept = 1.0 - lr * rate

            def work(piece: slice, flat: list[Any] = flat, kept: float = kept) -> None:
                p, g, m, v = (x[piece] for x in flat)
                a = g * factor
                b = a * a
                b *= 1.0 - s.beta2
                v *= s.beta2
                v += b
                a *= 1.0 - s.beta1
                m *= s.beta1
                m += a
                np.multiply(v, root, out=b)
                np.sqrt(b, out=b)
                b += s.epsilon
                np.divide(m, b, out=b)
                b *= step
                p *= kept
                p -= b

            in_pieces(work, flat[0].size, 1)
        return params, m, v


def _number(x: Tensor) -> float:
    return float(x)
