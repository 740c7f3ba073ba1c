"""The tied head and its mean cross entropy together, some rows at a time.

All logits of a batch are the largest tensor of a training step by far: [B, T, 50257]. Here the gradients are
computed chunk by chunk in the forward pass, while a chunk's logits are at hand, and nothing of size V is kept.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

CHUNK = 512
"""Rows of logits in memory at a time: 98 MiB in float32 with GPT-2's vocabulary."""


@jax.custom_vjp
def head_cross_entropy(x: Array, wte: Array, targets: Array) -> Array:
    """[N, D], [V, D] and [N] -> []: the mean of -log softmax(x wte^T)[target], in float32 at least."""
    total = sum(_chunk_loss(x[rows], wte, targets[rows])[0] for rows in _chunks(x.shape[0]))
    return total / x.shape[0]


def _forward(x: Array, wte: Array, targets: Array) -> tuple[Array, tuple[Array, Array]]:
    """The loss, and its gradients by x and wte."""
    total: Any = 0.0
    dwte: Any = 0.0
    dx = []
    for rows in _chunks(x.shape[0]):
        loss, logits, log_sum = _chunk_loss(x[rows], wte, targets[rows])
        one_hot = jnp.arange(wte.shape[0], dtype=targets.dtype) == targets[rows][:, None]
        dlogits = ((jnp.exp(logits - log_sum) - one_hot) / x.shape[0]).astype(x.dtype)  # [n, V]
        dx.append(_matmul(dlogits, wte))
        dwte = dwte + _matmul(dlogits.T, x[rows]).astype(logits.dtype)  # [V, D]
        total = total + loss
    return total / x.shape[0], (jnp.concatenate(dx), dwte.astype(wte.dtype))


def _backward(gradients: tuple[Array, Array], gradient: Array) -> tuple[Array, Array, None]:
    dx, dwte = gradients
    return gradient.astype(dx.dtype) * dx, gradient.astype(dwte.dtype) * dwte, None


head_cross_entropy.defvjp(_forward, _backward)


def _chunks(rows: int) -> list[slice]:
    return [slice(i, min(i + CHUNK, rows)) for i in range(0, rows, CHUNK)]


def _chunk_loss(x: Array, wte: Array, targets: Array) -> tuple[Any, Array, Array]:
    """The sum of the losses of some rows, their logits [n, V], and the logits' log-sum-exp [n, 1]."""
    logits = _matmul(x, wte.T)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    log_sum = jax.nn.logsumexp(logits, -1, keepdims=True)
    return jnp.sum(log_sum - jnp.take_along_axis(logits, targets[:, None], 1, mode="clip")), logits, log_sum


def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")
