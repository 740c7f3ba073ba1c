"""The tied head and its mean cross entropy together, some rows at a time.

All logits of a batch are the largest tensor of a training step by far: [B, T, 50257]. Here the gradients are
computed chunk by chunk in the forward pass, while a chunk's logits are at hand, and nothing of size V is kept.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 512
"""Rows of logits in memory at a time: 98 MiB in float32 with GPT-2's vocabulary."""
CUDA_ALIGNMENT = 64
"""On CUDA the vocabulary is padded to a multiple of this: 50257 is odd, and tensor cores like it even."""


def head_cross_entropy(x: Tensor, wte: Tensor, targets: Tensor, reduce_dtype: torch.dtype) -> Tensor:
    """[N, D], [V, D] and [N] -> []: the mean of -log softmax(x wte^T)[target], in `reduce_dtype`."""
    padded = F.pad(wte, (0, 0, 0, -wte.shape[0] % CUDA_ALIGNMENT)) if wte.is_cuda else wte
    if torch.is_grad_enabled():
        return _HeadCrossEntropy.apply(x, padded, targets, wte.shape[0], reduce_dtype)  # type: ignore[no-untyped-call]
    total = torch.zeros((), dtype=reduce_dtype, device=x.device)
    for rows in _chunks(x.shape[0]):
        total = total + _chunk_loss(x[rows], padded, targets[rows], wte.shape[0], reduce_dtype)[0]
    return total / x.shape[0]


class _HeadCrossEntropy(torch.autograd.Function):
    """Saves the gradients of the summed losses; the backward pass scales them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, wte: Tensor, targets: Tensor, n_vocab: int, reduce_dtype: torch.dtype) -> Tensor:
        total = torch.zeros((), dtype=reduce_dtype, device=x.device)
        dx, dwte = [], None
        for rows in _chunks(x.shape[0]):
            loss, log_probabilities = _chunk_loss(x[rows], wte, targets[rows], n_vocab, reduce_dtype)
            total = total + loss
            dlogits = _softmax_minus_one_hot(log_probabilities, targets[rows]).to(x.dtype)  # [n, V]
            dlogits = F.pad(dlogits, (0, wte.shape[0] - n_vocab)) if n_vocab < wte.shape[0] else dlogits
            dx.append(dlogits @ wte)
            dwte = _add_product(dwte, dlogits.T, x[rows], reduce_dtype)  # [V, D]
        assert dwte is not None
        ctx.save_for_backward(torch.cat(dx), dwte.to(wte.dtype))
        return total / x.shape[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        dx, dwte = ctx.saved_tensors
        scale = gradient / dx.shape[0]
        if torch.compiler.is_compiling():
            return scale * dx, scale * dwte, None, None, None
        return dx.mul_(scale), dwte.mul_(scale), None, None, None


def _chunks(rows: int) -> Iterator[slice]:
    return (slice(i, min(i + CHUNK, rows)) for i in range(0, rows, CHUNK))


def _chunk_loss(x: Tensor, wte: Tensor, targets: Tensor, n_vocab: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The sum of the losses of some rows, and all their log-probabilities [n, V]."""
    logits = (x @ wte.T)[:, :n_vocab]
    log_probabilities = torch.log_softmax(logits.to(dtype), -1)
    return -log_probabilities.gather(1, targets[:, None]).sum(), log_probabilities


def _softmax_minus_one_hot(log_probabilities: Tensor, targets: Tensor) -> Tensor:
    """The gradient of the summed losses by the logits, [n, V]; may overwrite its argument."""
    if torch.compiler.is_compiling():  # one loop over everything
        columns = torch.arange(log_probabilities.shape[1], device=targets.device)
        return torch.exp(log_probabilities) - (columns == targets[:, None]).to(log_probabilities.dtype)
    ones = torch.ones_like(targets[:, None], dtype=log_probabilities.dtype)
    return log_probabilities.exp_().scatter_add_(1, targets[:, None], -ones)


def _add_product(total: Tensor | None, a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """total + a b, the sum of several being kept in `dtype`."""
    if total is None:
        return a @ b
    if a.dtype == total.dtype == dtype:
        return torch.addmm(total, a, b) if torch.compiler.is_compiling() else total.addmm_(a, b)
    return total.to(dtype) + a @ b
