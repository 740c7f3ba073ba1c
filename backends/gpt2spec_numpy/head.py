"""The tied head and its mean cross entropy together, some positions at a time.

All logits of a batch are the largest tensor of a training step by far: [B, T, 50257]. Here the gradients are computed
chunk by chunk in the forward pass, while a chunk's logits are at hand, and nothing of size V is kept.
"""

from typing import Any

import numpy as np

from gpt2spec_numpy.cores import in_pieces, product
from gpt2spec_numpy.tape import fused

Array = Any
Saved = dict[str, Any]

CHUNK = 512
"""Positions whose logits are in memory at a time: 100 MB for GPT-2's vocabulary in float32."""


def head_losses(x: Array, wte: Array, targets: Array, gradients: dict[str, Array] | None) -> float:
    """The sum of the cross entropies of [N, D] positions; their gradients go into `gradients` if it is given."""
    loss = 0.0
    for first in range(0, len(x), CHUNK):
        rows = slice(first, min(first + CHUNK, len(x)))
        logits = product(x[rows], wte.T, wte)  # [R, V]
        target = targets[rows]

        def work(piece: slice, logits: Array = logits, target: Array = target) -> float:
            z = logits[piece]
            z -= z.max(-1, keepdims=True)
            index = (np.arange(len(z)), target[piece])
            picked = z[index].astype(np.float64)
            np.exp(z, out=z)
            total = z.sum(-1, keepdims=True)
            if gradients is not None:  # softmax - one_hot
                z /= total
                z[index] -= 1.0
            return float((np.log(total[:, 0].astype(np.float64)) - picked).sum())

        loss += sum(in_pieces(work, len(logits), logits.shape[1]))
        if gradients is not None:
            _accumulate_head(logits, x[rows], wte, rows, gradients)
    return loss


def _accumulate_head(dlogits: Array, x: Array, wte: Array, rows: slice, gradients: dict[str, Array]) -> None:
    """dx = dlogits W_e in these rows; dW_e += dlogits^T x, after the first chunk in slices of the vocabulary."""
    product(dlogits, wte, wte, out=gradients["x"][rows])
    if rows.start == 0:
        product(dlogits.T, x, wte, out=gradients["wte"])
        return
    for first in range(0, len(wte), 8192):
        tokens = slice(first, min(first + 8192, len(wte)))
        gradients["wte"][tokens] += product(dlogits[:, tokens].T, x, wte)


def _head_cross_entropy(saved: Saved, x: Array, wte: Array, targets: Array) -> Array:
    """[B, T, D], [V, D] and [B, T] -> []; computes the gradients at once, so that only their scale waits for g."""
    rows = x.reshape(-1, x.shape[-1])
    saved["x"], saved["wte"] = np.empty_like(rows), np.empty(wte.shape, wte.dtype)
    loss = head_losses(rows, wte, targets.reshape(-1), saved) / targets.size
    return np.asarray(loss, x.dtype)


def _head_cross_entropy_backward(saved: Saved, g: Array, x: Array, wte: Array, targets: Array) -> tuple[Array, ...]:
    scale = (g / targets.size).astype(x.dtype)
    dx, dwte = saved.pop("x"), saved.pop("wte")
    dx *= scale
    flat = dwte.reshape(-1)
    in_pieces(lambda piece: np.multiply(flat[piece], scale, out=flat[piece]), flat.size, 1)
    return dx.reshape(x.shape), dwte


head_cross_entropy = fused(_head_cross_entropy, _head_cross_entropy_backward)
