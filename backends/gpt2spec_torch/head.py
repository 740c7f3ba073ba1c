"""The tied head and its mean cross entropy together, some rows at a time.

All logits of a batch are the largest tensor of a training step by far: [B, T, 50257]. Here the gradients are
computed chunk by chunk in the forward pass, while a chunk's logits are at hand, and nothing of size V is kept.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2spec_torch.compilation import compiled

CHUNK = 256 * 2**20
"""Bytes of logits in memory at a time, in the compute dtype."""
CUDA_ALIGNMENT = 64
"""The vocabulary is padded to a multiple of this on CUDA, because 50257 is odd, which is slow on tensor cores."""


def head_cross_entropy(x: Tensor, wte: Tensor, targets: Tensor, reduce_dtype: torch.dtype, compile: bool) -> Tensor:
    """[N, D], [V, D] and [N] -> []: the mean of -log softmax(x wte^T)[target], in `reduce_dtype`.

    With `compile`, what is done to a chunk of logits is one loop over them.
    """
    padded = F.pad(wte, (0, 0, 0, -wte.shape[0] % CUDA_ALIGNMENT)) if wte.is_cuda else wte
    if torch.is_grad_enabled():
        return _HeadCrossEntropy.apply(x, padded, targets, wte.shape[0], reduce_dtype, compile)  # type: ignore[no-untyped-call]
    total = torch.zeros((), dtype=reduce_dtype, device=x.device)
    for rows in _chunks(x, padded):
        log_probabilities = _log_probabilities((x[rows] @ padded.T)[:, : wte.shape[0]], reduce_dtype)
        total = total - log_probabilities.gather(1, targets[rows, None]).sum()
    return total / x.shape[0]


class _HeadCrossEntropy(torch.autograd.Function):
    """Saves the gradients of the summed losses; the backward pass scales them."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, wte: Tensor, targets: Tensor, n_vocab: int, reduce_dtype: torch.dtype, compile: bool
    ) -> Tensor:
        total = torch.zeros((), dtype=reduce_dtype, device=x.device)
        dx, dwte = [], None
        loss_and_gradient = compiled(_loss_and_gradient) if compile else _loss_and_gradient
        for rows in _chunks(x, wte):
            loss, dlogits = loss_and_gradient((x[rows] @ wte.T)[:, :n_vocab], targets[rows], reduce_dtype)
            total = total + loss
            dlogits = F.pad(dlogits, (0, wte.shape[0] - n_vocab)) if n_vocab < wte.shape[0] else dlogits
            dx.append(dlogits @ wte)
            dwte = _add_product(dwte, dlogits.T, x[rows], reduce_dtype)  # [V, D]
        assert dwte is not None
        ctx.save_for_backward(torch.cat(dx), dwte.to(wte.dtype))
        return total / x.shape[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        dx, dwte = ctx.saved_tensors
        scale = gradient / dx.shape[0]
        if torch.compiler.is_compiling():
            return scale * dx, scale * dwte, None, None, None, None
        return dx.mul_(scale), dwte.mul_(scale), None, None, None, None


def _chunks(x: Tensor, wte: Tensor) -> Iterator[slice]:
    rows, step = x.shape[0], max(1, CHUNK // (wte.shape[0] * wte.element_size()))
    return (slice(i, min(i + step, rows)) for i in range(0, rows, step))


def _log_probabilities(logits: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.log_softmax(logits.to(dtype), -1)


def _loss_and_gradient(logits: Tensor, targets: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The sum of some rows' losses, and its gradient by their logits: softmax - one-hot, [n, V]."""
    log_probabilities = _log_probabilities(logits, dtype)
    loss = -log_probabilities.gather(1, targets[:, None]).sum()
    if torch.compiler.is_compiling():  # one loop over everything
        columns = torch.arange(logits.shape[1], device=targets.device)
        gradient = torch.exp(log_probabilities) - (columns == targets[:, None]).to(dtype)
    else:
        ones = torch.ones_like(targets[:, None], dtype=dtype)
        gradient = log_probabilities.exp_().scatter_add_(1, targets[:, None], -ones)
    return loss, gradient.to(logits.dtype)


def _add_product(total: Tensor | None, a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """total + a b, the sum of several being kept in `dtype`."""
    if total is None:
        return a @ b
    if a.dtype == total.dtype == dtype:
        return torch.addmm(total, a, b) if torch.compiler.is_compiling() else total.addmm_(a, b)
    product = a @ b
    if total.dtype == dtype and not torch.compiler.is_compiling():
        return total.add_(product)
    return total.to(dtype) + product
