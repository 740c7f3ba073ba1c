"""Tensor operations in PyTorch, with its fused kernels for attention, norms, losses and the optimizer."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from gpt2spec.ops import AdamWScalars, TensorOps
from gpt2spec.ops import NativeKey as Key
from gpt2spec.ops import NativeTensor as Tensor
from gpt2spec_torch import layouts
from gpt2spec_torch.adamw import fused_adamw
from gpt2spec_torch.compilation import compiled
from gpt2spec_torch.decoding.row_kernel import row_attention
from gpt2spec_torch.head import head_cross_entropy


class TorchOps(TensorOps):
    """Tensor operations on one device.

    Attributes:
        device: where tensors are made.
        in_place: `cache_write` and `accumulate` may overwrite the old state: set while `jit_update` runs.
        compile_blocks: `scan_blocks` compiles its block, the head its loss: set while a transform runs that does
            not compile all of itself.
    """

    def __init__(self, dtype: str, device: torch.device) -> None:
        super().__init__(dtype)
        self.device = device
        self.in_place = False
        self.compile_blocks = False

    def asarray(self, values: Any, dtype: str) -> Tensor:
        """Copy the values; to CUDA they go through pinned memory, so that the host need not wait."""
        host = torch.tensor(np.ascontiguousarray(values).reshape(np.shape(values))).to(getattr(torch, dtype))
        if self.device.type == "cuda":
            return host.pin_memory().to(self.device, non_blocking=True)
        return host.to(self.device)

    def full(self, shape: Sequence[int], value: float, dtype: str) -> Tensor:  # noqa: D102
        return torch.full(tuple(shape), value, dtype=getattr(torch, dtype), device=self.device)

    def arange(self, stop: int) -> Tensor:  # noqa: D102
        return torch.arange(stop, dtype=torch.int32, device=self.device)

    def astype(self, x: Tensor, dtype: str) -> Tensor:  # noqa: D102
        return x.to(getattr(torch, dtype))

    def stop_gradient(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.detach()

    # ------------------------------------------------------------------ shape and indexing

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:  # noqa: D102
        return x.reshape(tuple(shape))

    def permute_dims(self, x: Tensor, axes: Sequence[int]) -> Tensor:  # noqa: D102
        return x.permute(tuple(axes))

    def concat(self, xs: Sequence[Tensor], axis: int) -> Tensor:  # noqa: D102
        return torch.cat(list(xs), axis)

    def take(self, x: Tensor, indices: Tensor, axis: int) -> Tensor:  # noqa: D102
        return layouts.take(x, indices, axis)

    def take_along_axis(self, x: Tensor, indices: Tensor, axis: int) -> Tensor:  # noqa: D102
        return x.gather(axis, indices.long())

    # ------------------------------------------------------------------ arithmetic

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:  # noqa: D102
        return torch.matmul(a, b)

    def where(self, condition: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:  # noqa: D102
        return torch.where(condition, a, b)

    def exp(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.exp(x)

    def log(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.log(x)

    def sqrt(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.sqrt(x)

    def tanh(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.tanh(x)

    # ------------------------------------------------------------------ along an axis

    def sum(self, x: Tensor, axis: int | None, keepdims: bool) -> Tensor:
        """The running sum, in the dtype of `x`; PyTorch's default would turn int32 into int64."""
        return torch.sum(x, axis, keepdims, dtype=x.dtype)

    def max(self, x: Tensor, axis: int, keepdims: bool) -> Tensor:  # noqa: D102
        return torch.amax(x, axis, keepdims)

    def argmax(self, x: Tensor, axis: int) -> Tensor:  # noqa: D102
        return torch.argmax(x, axis).int()

    def cumulative_sum(self, x: Tensor, axis: int) -> Tensor:  # noqa: D102
        return torch.cumsum(x, axis, dtype=x.dtype)

    def sort(self, x: Tensor, axis: int, descending: bool) -> Tensor:  # noqa: D102
        return torch.sort(x, dim=axis, descending=descending).values

    def argsort(self, x: Tensor, axis: int, descending: bool) -> Tensor:  # noqa: D102
        return torch.argsort(x, dim=axis, descending=descending, stable=True).int()

    # ------------------------------------------------------------------ randomness

    def fold_in(self, key: Key, index: int | Tensor) -> Key:
        """Return the key itself, since a generator gives other numbers each time."""
        return key

    def random_uniform(self, key: Key, shape: Sequence[int]) -> Tensor:
        """Draw from the key's generator; in the backend's transforms, from the default one, which they have seeded."""
        generator = key if isinstance(key, torch.Generator) else None
        return torch.rand(tuple(shape), generator=generator, device=self.device, dtype=torch.float32)

    def dropout(self, x: Tensor, rate: float, key: Key | None) -> Tensor:
        """Use PyTorch's kernel inside the transforms only, because it draws from the default generator."""
        if key is None or rate == 0.0 or isinstance(key, torch.Generator):
            return super().dropout(x, rate, key)
        return F.dropout(x, rate, training=True)

    # ------------------------------------------------------------------ parts of a block

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: D102
        return layouts.linear(weight, x, bias)

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:  # noqa: D102
        y = F.layer_norm(self.astype(x, self.reduce_dtype), weight.shape, weight, bias, epsilon)
        return self.astype(y, self.dtype)

    def gelu_tanh(self, x: Tensor) -> Tensor:  # noqa: D102
        return F.gelu(x, approximate="tanh")

    def softmax(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.softmax(x, -1)

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
        """Use PyTorch's fused attention, which never holds all scores, unless scores are dropped out."""
        if dropout > 0.0 and key is not None:
            return super().causal_attention(q, k, v, start=start, dropout=dropout, key=key)
        if start is None:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        if q.shape[2] == 1 and torch.compiler.is_exporting():
            return self.astype(row_attention(q, k, v, start), self.dtype)
        if q.shape[2] == 1 and self._at_hand(start):
            return self._one_query(q, k, v, start)
        position = start.reshape(-1, 1, 1, 1) + self.arange(q.shape[2]).reshape(1, 1, -1, 1)  # [B, 1, T, 1]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.arange(k.shape[2]) <= position)

    def _one_query(self, q: Tensor, k: Tensor, v: Tensor, start: Tensor) -> Tensor:
        """Attend from one query of each row, on a CPU. Rows that have come equally far need no mask.

        PyTorch 2.13's kernel takes six times as long in bfloat16 as in float32, conversions take less.
        """
        mask = None
        if (first := _common(start)) is not None:
            k, v = k[:, :, : first + 1], v[:, :, : first + 1]
        else:
            mask = self.arange(k.shape[2]) <= start.reshape(-1, 1, 1, 1)
        q, k, v = (self.astype(x, self.reduce_dtype) for x in (q, k, v))
        return self.astype(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), self.dtype)

    def scan_blocks(
        self, block: Callable[..., tuple[Any, ...]], x: Tensor, *stacked: Any, **shared: Any
    ) -> tuple[Any, ...]:
        """One program serves every layer where blocks are compiled by themselves.

        In decoding they are not: a block with a cache waits for its products, and compiled or not takes as long.
        """
        blocks, *others = stacked
        if self.compile_blocks and not others:
            block = compiled_block(block)
        return layouts.scan_blocks(blocks, self, block, x, *others, **shared)

    def cache_write(self, cache: Tensor, new: Tensor, start: Tensor | None) -> Tensor:
        """Write by indexing, and into the cache itself where its old content is not needed any more."""
        cache, T = cache if self.in_place else cache.clone(), new.shape[2]
        if start is None:
            cache[:, :, :T] = new
            return cache
        if self._at_hand(start):
            if (first := _common(start)) is not None:
                cache.narrow(2, first, T).copy_(new)
                return cache
            for row, first in enumerate(start.tolist()):
                cache[row].narrow(1, first, T).copy_(new[row])
            return cache
        rows = self.arange(new.shape[0]).reshape(-1, 1)
        slots = start.reshape(-1, 1) + self.arange(new.shape[2])  # [B, T]
        cache[rows, :, slots] = new.permute(0, 2, 1, 3)
        return cache

    def _at_hand(self, x: Tensor) -> bool:
        """Whether the host can look at the values of `x` without waiting for them."""
        return x.device.type == "cpu" and not torch.compiler.is_compiling()

    # ------------------------------------------------------------------ head, loss and optimizer

    def unembed(self, x: Tensor, wte: Tensor) -> Tensor:  # noqa: D102
        return self.astype(layouts.unembed(wte, x), self.reduce_dtype)

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:  # noqa: D102
        losses = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1).long(), reduction="none")
        return losses.reshape(targets.shape)

    def head_cross_entropy(self, x: Tensor, wte: Tensor, targets: Tensor) -> Tensor:
        """Compute some rows at a time; see `head`."""
        dtype = getattr(torch, self.reduce_dtype)
        targets = targets.reshape(-1).long()
        return head_cross_entropy(x.reshape(-1, x.shape[-1]), wte, targets, dtype, self.compile_blocks)

    def global_norm(self, tensors: Sequence[Tensor]) -> Tensor:  # noqa: D102
        norms = torch._foreach_norm([self.astype(x, self.reduce_dtype) for x in tensors])
        return torch.linalg.vector_norm(torch.stack(norms))

    def accumulate(self, totals: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Add in place where that is allowed, so that there is no third set of gradients."""
        if not self.in_place:
            return super().accumulate(totals, gradients)
        torch._foreach_add_(totals, gradients)
        return totals

    def adamw_update(
        self,
        params: list[Tensor],
        grads: list[Tensor],
        m: list[Tensor],
        v: list[Tensor],
        decay: list[float],
        s: AdamWScalars,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Update in place by PyTorch's fused AdamW, see `adamw`, which takes the scale of gradients in float32 only."""
        inverse = 1.0 / s.scale if isinstance(s.scale, torch.Tensor) else None
        if inverse is not None and inverse.dtype != torch.float32:
            grads, inverse = list(torch._foreach_mul(grads, s.scale)), None
        for rate in dict.fromkeys(decay):
            group = [i for i, own in enumerate(decay) if own == rate]
            fused_adamw(
                [params[i] for i in group],
                [grads[i] for i in group],
                [m[i] for i in group],
                [v[i] for i in group],
                inverse,
                s.lr,
                s.update,
                [s.beta1, s.beta2, rate, s.epsilon],
            )
        return params, m, v


def _common(start: Tensor) -> int | None:
    """The position of all rows, or None where they differ."""
    first, *others = start.tolist()
    return first if all(other == first for other in others) else None


def compiled_block(block: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """Turn `block` into one program for all layers."""

    def run(x: Tensor, i: int, *trees: Any, **shared: Any) -> tuple[Any, ...]:
        return compiled(_at_one_layer)(block, x, *trees, **shared)

    return run


def _at_one_layer(block: Callable[..., tuple[Any, ...]], x: Tensor, *trees: Any, **shared: Any) -> tuple[Any, ...]:
    """Run `block` as layer 0: only `fold_in` uses the number of a layer, and a generator's does not."""
    return block(x, 0, *trees, **shared)
