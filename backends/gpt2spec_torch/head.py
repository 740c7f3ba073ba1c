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
    @staticmethod
    def forward(ctx: Any, x: Tensor, wte: Tensor, targets: Tensor, n_vocab: int, reduce_dtype: torch.dtype) -> Tensor:
        N, V = x.shape[0], wte.shape[0]
        total = torch.zeros((), dtype=reduce_dtype, device=x.device)
        dx, dwte = [], None
        for rows in _chunks(N):
            loss, logits, log_sum = _chunk_loss(x[rows], wte, targets[rows], n_vocab, reduce_dtype)
            total = total + loss
            dlogits = (_softmax_minus_one_hot(logits, log_sum, targets[rows]) / N).to(x.dtype)  # [n, V]
            dlogits = F.pad(dlogits, (0, V - n_vocab)) if n_vocab < V else dlogits
            dx.append(dlogits @ wte)
            part = dlogits.T @ x[rows]  # [V, D]
            dwte = part.to(reduce_dtype) if dwte is None else dwte + part
        assert dwte is not None
        ctx.save_for_backward(torch.cat(dx), dwte.to(wte.dtype))
        return total / N

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        dx, dwte = ctx.saved_tensors
        return gradient * dx, gradient * dwte, None, None, None


def _chunks(rows: int) -> Iterator[slice]:
    return (slice(i, min(i + CHUNK, rows)) for i in range(0, rows, CHUNK))


def _chunk_loss(
    x: Tensor, wte: Tensor, targets: Tensor, n_vocab: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of the losses of some rows, their logits [n, V], and the logits' log-sum-exp [n, 1]."""
    logits = (x @ wte.T)[:, :n_vocab].to(dtype)
    log_sum = torch.logsumexp(logits, -1, keepdim=True)
    return (log_sum - logits.gather(1, targets[:, None])).sum(), logits, log_sum


def _softmax_minus_one_hot(logits: Tensor, log_sum: Tensor, targets: Tensor) -> Tensor:
    """The gradient of the losses by the logits, [n, V]; may overwrite them."""
    if torch.compiler.is_compiling():  # one loop over the logits
        return torch.exp(logits - log_sum) - (torch.arange(logits.shape[1], device=logits.device) == targets[:, None])
    probabilities = logits.sub_(log_sum).exp_()
    return probabilities.scatter_add_(1, targets[:, None], torch.full_like(log_sum, -1.0))
