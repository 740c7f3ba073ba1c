"""Weights laid out for the products of decoding, which have few rows."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2spec_torch import layouts
from gpt2spec_torch.decoding.ahead_of_time import Program


class FewRowsWeight:
    """A weight [in, out] that stands in the parameters of decoding in place of a tensor.

    One row is multiplied by the compiled kernel where there is one. A few rows are multiplied by oneDNN, which wants
    the weight in an order of its own; that is made when it is first needed. Many rows, those of a prompt, take either.

    Attributes:
        shape: [in, out].
        rows: the numbers that are multiplied, [out, in].
        scale: what each output is multiplied by after that, float32 [out].
    """

    def __init__(self, weight: Tensor, kernel: Program | None, int8: bool) -> None:
        """Lays out `weight` [in, out]; with `int8`, in 255 steps whose size is each output's own."""
        self.shape = weight.shape
        self._kernel = kernel
        rows = weight.T  # [out, in]
        self.scale = torch.ones(rows.shape[0])
        if int8:
            self.scale = rows.abs().amax(1).float().clamp_min(1e-12) / 127.0
            rows = (rows.float() / self.scale[:, None]).round().to(torch.int8)
        self.rows = in_large_pages(rows)
        self._zero, self._one = torch.zeros(rows.shape[0]), torch.ones(rows.shape[0], dtype=torch.bfloat16)
        self._packed: Tensor | None = None

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x weight + bias: [..., in] -> [..., out]."""
        few = x.ndim == 2 or x.shape[1] == 1  # one position of each row
        flat = x.reshape(-1, x.shape[-1])
        if self._kernel is not None and flat.shape[0] == 1:
            y = self._kernel(flat, self.rows, self.scale, self._zero if bias is None else bias.float())
        elif self.rows.dtype == torch.int8:
            y = self._int8(flat, few, bias)
        else:
            if few and self._packed is None:
                self._packed = torch.ops.mkldnn._reorder_linear_weight(self.rows, flat.shape[0])
            if self._packed is None:
                y = F.linear(flat, self.rows, bias)
            else:
                y = torch.ops.mkldnn._linear_pointwise(flat, self._packed, bias, "none", [], "")
        return y.reshape(*x.shape[:-1], self.shape[1])

    def _int8(self, x: Tensor, few: bool, bias: Tensor | None) -> Tensor:
        """Multiplies by whole steps, which every dtype has, and then by their size; a few rows are in bfloat16.

        PyTorch 2.13's kernel for a few rows reads beyond its operands where their width is no multiple of 16.
        """
        if few and self.shape[0] % 16 == 0:
            y = torch._weight_int8pack_mm(x.bfloat16(), self.rows, self._one).float()
        else:
            y = F.linear(x.float(), self.rows.float())
        return torch.addcmul(self._zero if bias is None else bias.float(), y, self.scale)


class FewRowsTable(FewRowsWeight):
    """An embedding [V, D], whose product is that of the tied head.

    Attributes:
        table: [V, D], which tokens are looked up in. It is never rounded.
    """

    def __init__(self, table: Tensor, kernel: Program | None, int8: bool) -> None:
        super().__init__(table.T, kernel, int8)
        self.table = table if int8 else self.rows


@layouts.linear.register(FewRowsWeight)
def linear(weight: FewRowsWeight, x: Tensor, bias: Tensor) -> Tensor:
    """x W + b in the dtype of `x`."""
    return weight.product(x, bias).to(x.dtype)


@layouts.unembed.register(FewRowsTable)
def unembed(wte: FewRowsTable, x: Tensor) -> Tensor:
    """x W_e^T."""
    return wte.product(x, None)


@layouts.take.register(FewRowsTable)
def take(x: FewRowsTable, indices: Tensor, axis: int) -> Tensor:
    """The embeddings of tokens."""
    return layouts.take(x.table, indices, axis)


def in_large_pages(x: Tensor) -> Tensor:
    """A contiguous copy in memory for which NumPy asks Linux for huge pages, where it is read 5 to 10 % faster."""
    memory = np.empty(x.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return torch.from_numpy(memory[start : start + x.nbytes]).view(x.dtype).reshape(x.shape).copy_(x)
