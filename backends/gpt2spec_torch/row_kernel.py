"""A matrix-vector product that reads its weights at the speed of memory: decoding on a CPU is little else.

PyTorch's own products are made for many rows; for one they reach half of that or less, and in bfloat16 a quarter.
This one is Inductor's loop.
"""

import torch
from torch import Tensor

from gpt2spec_torch.ahead_of_time import Program, Recipe, program


def row_product(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """(weight x) scale + bias of one row, written as the loop that Inductor is to make of it.

    [..., K], weight [N, K], scale [N] and bias [N] -> float32 [N].
    """
    return (weight.to(torch.float32) * x.reshape(1, -1).to(torch.float32)).sum(-1) * scale + bias


class _Row(torch.nn.Module):
    def forward(self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return row_product(x, weight, scale, bias)


def row_kernel(activations: torch.dtype, weights: torch.dtype) -> Program | None:
    """`row_product` for x [1, K] and weights of these dtypes; None where it cannot be compiled."""

    def recipe() -> Recipe:
        K, N = (torch.export.Dim(name, min=2, max=1 << 24) for name in "KN")
        x, weight = torch.zeros(1, 768, dtype=activations), torch.zeros(640, 768, dtype=weights)
        return _Row(), (x, weight, torch.ones(640), torch.zeros(640)), ({1: K}, {0: N, 1: K}, {0: N}, {0: N})

    return program(f"row-{str(activations)[6:]}-{str(weights)[6:]}", recipe)
