"""Tensor operations in jax.numpy. Layers are stacked on a leading axis, so that a program has the size of one block."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt2spec.ops import NativeKey as Key
from gpt2spec.ops import NativeTensor as Tensor
from gpt2spec.ops import TensorOps
from gpt2spec_jax.head import head_cross_entropy

QUERIES = 128
"""The number of queries that attend at a time in longer sequences."""


class JaxOps(TensorOps):
    """Tensor operations on one device.

    Attributes:
        device: where tensors are made.
        remat: compute a block's activations again in the backward pass, instead of keeping them.
    """

    def __init__(self, dtype: str, device: jax.Device, remat: bool) -> None:
        super().__init__(dtype)
        self.device = device
        self.remat = remat

    def asarray(self, values: Any, dtype: str) -> Tensor:  # noqa: D102
        return jax.device_put(np.array(values).astype(jnp.dtype(dtype)), self.device)

    def full(self, shape: Sequence[int], value: float, dtype: str) -> Tensor:  # noqa: D102
        return jnp.full(tuple(shape), value, dtype, device=self.device)

    def arange(self, stop: int) -> Tensor:  # noqa: D102
        return jnp.arange(stop, dtype="int32", device=self.device)

    def astype(self, x: Tensor, dtype: str) -> Tensor:  # noqa: D102
        return x if x.dtype == dtype else x.astype(dtype)

    def stop_gradient(self, x: Tensor) -> Tensor:  # noqa: D102
        return jax.lax.stop_gradient(x)

    # ------------------------------------------------------------------ shape and indexing

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:  # noqa: D102
        return jnp.reshape(x, tuple(shape))

    def permute_dims(self, x: Tensor, axes: Sequence[int]) -> Tensor:  # noqa: D102
        return jnp.transpose(x, tuple(axes))

    def concat(self, xs: Sequence[Tensor], axis: int) -> Tensor:  # noqa: D102
        return jnp.concatenate(list(xs), axis)

    def take(self, x: Tensor, indices: Tensor, axis: int) -> Tensor:  # noqa: D102
        return jnp.take(x, indices, axis, mode="clip")

    def take_along_axis(self, x: Tensor, indices: Tensor, axis: int) -> Tensor:  # noqa: D102
        return jnp.take_along_axis(x, indices, axis, mode="clip")

    # ------------------------------------------------------------------ arithmetic

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        """Multiply in the full precision of the dtype; accelerators would compute float32 in TF32 or bfloat16."""
        return jnp.matmul(a, b, precision="highest")

    def where(self, condition: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:  # noqa: D102
        return jnp.where(condition, a, b)

    def exp(self, x: Tensor) -> Tensor:  # noqa: D102
        return jnp.exp(x)

    def log(self, x: Tensor) -> Tensor:  # noqa: D102
        return jnp.log(x)

    def sqrt(self, x: Tensor) -> Tensor:  # noqa: D102
        return jnp.sqrt(x)

    def tanh(self, x: Tensor) -> Tensor:  # noqa: D102
        return jnp.tanh(x)

    # ------------------------------------------------------------------ along an axis

    def sum(self, x: Tensor, axis: int | None, keepdims: bool) -> Tensor:  # noqa: D102
        return jnp.sum(x, axis, dtype=x.dtype, keepdims=keepdims)

    def max(self, x: Tensor, axis: int, keepdims: bool) -> Tensor:  # noqa: D102
        return jnp.max(x, axis, keepdims=keepdims)

    def argmax(self, x: Tensor, axis: int) -> Tensor:  # noqa: D102
        return jnp.argmax(x, axis).astype("int32")

    def cumulative_sum(self, x: Tensor, axis: int) -> Tensor:  # noqa: D102
        return jnp.cumsum(x, axis, dtype=x.dtype)

    def sort(self, x: Tensor, axis: int, descending: bool) -> Tensor:  # noqa: D102
        return jnp.sort(x, axis, descending=descending)

    def argsort(self, x: Tensor, axis: int, descending: bool) -> Tensor:  # noqa: D102
        return jnp.argsort(x, axis, stable=True, descending=descending).astype("int32")

    # ------------------------------------------------------------------ randomness

    def fold_in(self, key: Key, index: int | Tensor) -> Key:  # noqa: D102
        return jax.random.fold_in(key, index)

    def random_uniform(self, key: Key, shape: Sequence[int]) -> Tensor:  # noqa: D102
        return jax.random.uniform(key, tuple(shape), "float32")

    # ------------------------------------------------------------------ parts of a block

    def softmax(self, x: Tensor) -> Tensor:  # noqa: D102
        return jax.nn.softmax(x, -1)

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
        """The definition, for long sequences by some queries at a time and the keys that those may see.

        What belongs to one group of queries is computed again in the backward pass, so that the scores
        [T, T] are never all in memory.
        """
        T = q.shape[2]
        if start is not None or T <= QUERIES:
            return super().causal_attention(q, k, v, start=start, dropout=dropout, key=key)

        def attend(q: Tensor, k: Tensor, v: Tensor, first: int) -> Tensor:
            end = min(first + QUERIES, T)
            part_key = None if key is None else self.fold_in(key, first)
            return TensorOps.causal_attention(
                self,
                q[:, :, first:end],
                k[:, :, :end],
                v[:, :, :end],
                start=self.full((1,), first, "int32"),
                dropout=dropout,
                key=part_key,
            )

        attend = jax.checkpoint(attend, prevent_cse=False, static_argnums=3)
        return self.concat([attend(q, k, v, first) for first in range(0, T, QUERIES)], 2)

    # ------------------------------------------------------------------ head and loss

    def log_sum_exp(self, x: Tensor) -> Tensor:  # noqa: D102
        return jax.nn.logsumexp(x, -1, keepdims=True)

    def head_cross_entropy(self, x: Tensor, wte: Tensor, targets: Tensor) -> Tensor:
        """Compute some rows at a time; see `head`."""
        return head_cross_entropy(self.reshape(x, (-1, x.shape[-1])), wte, self.reshape(targets, (-1,)))

    # ------------------------------------------------------------------ layers and cache

    def stack_layers(self, layers: list[Any]) -> Any:
        """Stack the layers' tensors along a leading axis."""
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)

    def unstack_layers(self, stacked: Any) -> list[Any]:  # noqa: D102
        leaves = jax.tree.leaves(stacked)
        return [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(leaves[0].shape[0] if leaves else 0)]

    def scan_blocks(
        self, block: Callable[..., tuple[Any, ...]], x: Tensor, *stacked: Any, **shared: Any
    ) -> tuple[Any, ...]:
        """Run `lax.scan`, which compiles the block once for all layers. Lists of layers, as in decoding, are a loop."""
        if isinstance(stacked[0], list):
            return super().scan_blocks(block, x, *stacked, **shared)

        def body(x: Tensor, layer: tuple[Tensor, Any]) -> tuple[Tensor, tuple[Any, ...]]:
            i, trees = layer
            x, *outs = block(x, i, *trees, **shared)
            return x, tuple(outs)

        body = jax.checkpoint(body, prevent_cse=False) if self.remat else body
        n_layer = jax.tree.leaves(stacked)[0].shape[0]
        x, outs = jax.lax.scan(body, x, (self.arange(n_layer), stacked))
        return x, *outs

    def cache_write(self, cache: Tensor, new: Tensor, start: Tensor | None) -> Tensor:
        """Copy a block into each row, in place where the old cache was donated."""
        if start is None:
            return jax.lax.dynamic_update_slice(cache, new, (0, 0, 0, 0))
        zero = jnp.zeros((), start.dtype)

        def write(row: Tensor, new: Tensor, first: Tensor) -> Tensor:
            return jax.lax.dynamic_update_slice(row, new, (zero, first, zero))

        return jax.vmap(write)(cache, new, start)
