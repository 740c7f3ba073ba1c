"""Forward and backward of GPT-2's composites in NumPy, each derived by hand.

What a backward can compute again cheaply (tanh, attention weights) is not saved. Shapes are those of `gpt2spec.ops`;
g is the gradient of the loss with respect to the result.
"""

import math
from typing import Any

import numpy as np
from autograd.extend import SparseObject, vspace

from gpt2spec_numpy.cores import PIECE, in_parallel, in_pieces, one_core, product
from gpt2spec_numpy.tape import fused

Array = Any
Saved = dict[str, Any]


# ---------------------------------------------------------------------- y = x W + b


def _linear(saved: Saved, x: Array, weight: Array, bias: Array) -> Array:
    y = product(x.reshape(-1, x.shape[-1]), weight, weight)
    y += bias
    return y.reshape(*x.shape[:-1], -1)


def _linear_backward(saved: Saved, g: Array, x: Array, weight: Array, bias: Array) -> tuple[Array, ...]:
    x_rows, g_rows = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    dx, dweight = product(g_rows, weight.T, weight), product(x_rows.T, g_rows, weight)
    return dx.reshape(x.shape), dweight, g_rows.sum(0)


linear = fused(_linear, _linear_backward)


# ---------------------------------------------------------------------- layer norm


def _layer_norm(saved: Saved, x: Array, weight: Array, bias: Array, epsilon: float) -> Array:
    mean = x.mean(-1, keepdims=True)
    y = x - mean
    rstd = np.einsum("...d,...d->...", y, y)[..., None]
    rstd /= x.shape[-1]
    rstd += epsilon
    np.sqrt(rstd, out=rstd)
    np.reciprocal(rstd, out=rstd)
    y *= rstd
    saved["mean"], saved["rstd"] = mean, rstd
    y *= weight
    y += bias
    return y


def _layer_norm_backward(
    saved: Saved, g: Array, x: Array, weight: Array, bias: Array, epsilon: float
) -> tuple[Array, ...]:
    """dx = rstd (h - mean(h) - xhat mean(h xhat)) with h = g weight, xhat = (x - mean) rstd."""
    xhat = x - saved["mean"]
    xhat *= saved["rstd"]
    h = g * weight
    along = np.einsum("...d,...d->...", h, xhat)[..., None]
    along /= x.shape[-1]
    h -= h.mean(-1, keepdims=True)
    rows = (-1, x.shape[-1])
    dweight = np.einsum("rd,rd->d", g.reshape(rows), xhat.reshape(rows))
    xhat *= along
    h -= xhat
    h *= saved["rstd"]
    return h, dweight, g.reshape(rows).sum(0)


layer_norm = fused(_layer_norm, _layer_norm_backward)


# ---------------------------------------------------------------------- GELU, tanh form

_ROOT = math.sqrt(2.0 / math.pi)


def _gelu(saved: Saved, x: Array) -> Array:
    """0.5 x (1 + t) with t = tanh(r x (1 + 0.044715 x^2)), r = sqrt(2/pi)."""
    y, flat = np.empty(x.shape, x.dtype), x.reshape(-1)
    out = y.reshape(-1)

    def work(piece: slice) -> None:
        x, y = flat[piece], out[piece]
        np.multiply(x, x, out=y)
        y *= _ROOT * 0.044715
        y += _ROOT
        y *= x
        np.tanh(y, out=y)
        y += 1.0
        y *= x
        y *= 0.5

    in_pieces(work, flat.size, 1)
    return y


def _gelu_backward(saved: Saved, g: Array, x: Array) -> tuple[Array, ...]:
    """g (0.5 (1 + t) + 0.5 x (1 - t^2) r (1 + 3 0.044715 x^2))."""
    dx, flat, flat_g = np.empty(x.shape, x.dtype), x.reshape(-1), g.reshape(-1)
    out = dx.reshape(-1)

    def work(piece: slice) -> None:
        x, d = flat[piece], out[piece]
        square = x * x
        np.multiply(square, _ROOT * 0.044715, out=d)
        d += _ROOT
        d *= x
        t = np.tanh(d, out=d)
        square *= 3 * _ROOT * 0.044715
        square += _ROOT
        square *= x  # x r (1 + 3 0.044715 x^2)
        slope = t * t
        np.subtract(1.0, slope, out=slope)
        slope *= square
        d += 1.0
        d += slope
        d *= 0.5
        d *= flat_g[piece]

    in_pieces(work, flat.size, 1)
    return (dx,)


gelu_tanh = fused(_gelu, _gelu_backward)


# ---------------------------------------------------------------------- queries, keys and values out of c_attn


def _heads(saved: Saved, x: Array, third: int, n_head: int) -> Array:
    """The queries (0), keys (1) or values (2) in [B, T, 3D], as a view [B, H, T, d]."""
    B, T, _ = x.shape
    return x.reshape(B, T, 3, n_head, -1)[:, :, third].transpose(0, 2, 1, 3)


def _heads_backward(saved: Saved, g: Array, x: Array, third: int, n_head: int) -> tuple[Any, ...]:
    """Adds g into its third of the gradient of x, which queries, keys and values share."""

    def add_to(dx: Array) -> Array:
        _heads(saved, dx, third, n_head)[...] += g
        return dx

    return (SparseObject(vspace(x), add_to),)


heads = fused(_heads, _heads_backward)


# ---------------------------------------------------------------------- causal attention from position 0


def _head_groups(heads: int, T: int) -> list[slice]:
    """Groups of heads whose scores for a block of queries, against all keys, are about a `PIECE`."""
    group = max(1, PIECE // (min(T, _QUERIES) * T))
    return [slice(h, min(h + group, heads)) for h in range(0, heads, group)]


def _query_blocks(T: int) -> list[tuple[slice, slice]]:
    """Blocks of queries, each with the keys up to its last query."""
    blocks = [slice(first, min(first + _QUERIES, T)) for first in range(0, T, _QUERIES)]
    return [(queries, slice(0, queries.stop)) for queries in blocks]


_QUERIES = 128


def _masked_scores(q: Array, k: Array, queries: slice) -> Array:
    """q k^T with -inf where a key is later than its query: [h, n, d] and [h, S, d] -> [h, n, S]."""
    scores = q @ k.transpose(0, 2, 1)
    first, last = queries.start, queries.stop
    later = np.triu(np.ones((last - first, last - first), np.bool_), 1)
    np.copyto(scores[:, :, first:last], -np.inf, where=later)
    return scores


def _flat_heads(x: Array) -> Array:
    """[B, H, T, d] -> contiguous [B H, T, d]."""
    return np.ascontiguousarray(x).reshape(-1, *x.shape[2:])


def _attention(saved: Saved, q: Array, k: Array, v: Array) -> Array:
    """Saves the log of each softmax's denominator instead of the weights (Dao et al. 2022)."""
    shape, scale = q.shape, 1.0 / math.sqrt(q.shape[-1])
    q, k, v = _flat_heads(q * np.asarray(scale, q.dtype)), _flat_heads(k), _flat_heads(v)
    y, log_sum = np.empty_like(q), np.empty((*q.shape[:2], 1), q.dtype)
    groups = _head_groups(*q.shape[:2])

    def work(group: int) -> None:
        heads = groups[group]
        for queries, keys in _query_blocks(q.shape[1]):
            weights = _masked_scores(q[heads, queries], k[heads, keys], queries)
            peak = weights.max(-1, keepdims=True)
            weights -= peak
            np.exp(weights, out=weights)
            total = weights.sum(-1, keepdims=True)
            np.matmul(weights, v[heads, keys], out=y[heads, queries])
            y[heads, queries] /= total
            log_sum[heads, queries] = np.log(total) + peak

    with one_core():
        in_parallel(work, len(groups))
    saved.update(q=q, k=k, v=v, y=y, log_sum=log_sum, scale=scale)
    return y.reshape(shape)


def _attention_backward(saved: Saved, g: Array, *_: Array) -> tuple[Array, ...]:
    """dV = P^T g, dS = P (dP - sum(g y)), dQ = dS K, dK = dS^T Q, with weights P and dP = g V^T."""
    q, k, v, y, log_sum = (saved[name] for name in ("q", "k", "v", "y", "log_sum"))
    shape, g = g.shape, _flat_heads(g)
    along = np.einsum("htd,htd->ht", g, y)[..., None]
    dq, dk, dv = np.empty_like(q), np.zeros_like(k), np.zeros_like(v)
    groups = _head_groups(*q.shape[:2])

    def work(group: int) -> None:
        heads = groups[group]
        for queries, keys in _query_blocks(q.shape[1]):
            weights = _masked_scores(q[heads, queries], k[heads, keys], queries)
            weights -= log_sum[heads, queries]
            np.exp(weights, out=weights)
            dv[heads, keys] += weights.transpose(0, 2, 1) @ g[heads, queries]
            slope = g[heads, queries] @ v[heads, keys].transpose(0, 2, 1)
            slope -= along[heads, queries]
            slope *= weights
            np.matmul(slope, k[heads, keys], out=dq[heads, queries])
            dk[heads, keys] += slope.transpose(0, 2, 1) @ q[heads, queries]

    with one_core():
        in_parallel(work, len(groups))
    dq *= saved["scale"]  # q was scaled before the product, k sees it scaled already
    return dq.reshape(shape), dk.reshape(shape), dv.reshape(shape)


causal_attention = fused(_attention, _attention_backward)


# ---------------------------------------------------------------------- rows of an embedding


def _rows(saved: Saved, table: Array, indices: Array) -> Array:
    return table[indices]


def _rows_backward(saved: Saved, g: Array, table: Array, indices: Array) -> tuple[Any, ...]:
    """Adds g to the rows it came from, into a gradient that may already hold the head's."""

    def add_to(dtable: Array) -> Array:
        for index, row in zip(indices.reshape(-1).tolist(), g.reshape(-1, g.shape[-1]), strict=True):
            dtable[index] += row
        return dtable

    return (SparseObject(vspace(table), add_to),)


rows = fused(_rows, _rows_backward)
