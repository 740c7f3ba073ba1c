"""A product and attention for one row, written as the loops that Inductor is to make of them.

Decoding on a CPU is little else than reading weights from memory. PyTorch's own products are made for many rows; for
one they reach half of memory's speed or less, and in bfloat16 a quarter. Inductor's loop reaches all of it.
"""

import math

import torch
from torch import Tensor

from gpt2spec_torch.decoding.ahead_of_time import Program, Recipe, program


def row_product(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """(weight x) scale + bias: one row [..., K], weight [N, K], scale [N] and bias [N] -> float32 [N]."""
    return (weight.to(torch.float32) * x.reshape(1, -1).to(torch.float32)).sum(-1) * scale + bias


def row_attention(q: Tensor, k: Tensor, v: Tensor, start: Tensor) -> Tensor:
    """Attention of the one query of one row, in float32: [1, H, 1, d] and 2 x [1, H, C, d] -> [1, H, 1, d]."""
    seen = start.item() + 1
    torch._check(seen >= 1)  # type: ignore[no-untyped-call]
    torch._check(seen <= k.shape[2])  # type: ignore[no-untyped-call]
    k, v = (x[:, :, :seen].to(torch.float32) for x in (k, v))
    weights = torch.softmax((q.to(torch.float32) * k).sum(-1) / math.sqrt(q.shape[-1]), -1)  # [1, H, seen]
    return (weights[..., None] * v).sum(2, keepdim=True)


class _Row(torch.nn.Module):
    def forward(self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return row_product(x, weight, scale, bias)


def row_kernel(activations: torch.dtype, weights: torch.dtype) -> Program | None:
    """`row_product` as a program for x [1, K] and weights of these dtypes; None where it cannot be compiled."""

    def recipe() -> Recipe:
        K, N = (torch.export.Dim(name, min=2, max=1 << 24) for name in "KN")
        x, weight = torch.zeros(1, 768, dtype=activations), torch.zeros(640, 768, dtype=weights)
        return _Row(), (x, weight, torch.ones(640), torch.zeros(640)), ({1: K}, {0: N, 1: K}, {0: N}, {0: N})

    return program(f"row-{str(activations)[6:]}-{str(weights)[6:]}", recipe)
