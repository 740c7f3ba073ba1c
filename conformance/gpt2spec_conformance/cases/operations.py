"""These cases give operations values that break careless ones: huge scores, no variance, ties, single elements."""

from collections.abc import Callable
from typing import Any

import numpy as np

from gpt2spec.ops import TensorOps
from gpt2spec.random import generator
from gpt2spec_conformance.case import Answer, Metric, case
from gpt2spec_conformance.subject import Subject, backend_of

Tensors = dict[str, Any]
Compute = Callable[..., Tensors]


def program(
    name: str, *inputs: np.ndarray, metric: Metric = "rows", level: str = "inference"
) -> Callable[[Compute], Compute]:
    """Declares a case that compiles the function `compute(ops, *tensors)` below it and runs it on some inputs."""

    def declare(compute: Compute) -> Compute:
        def ask(subject: Subject) -> Answer:
            backend = backend_of(subject)
            run = backend.jit(lambda *tensors: compute(backend.ops, *tensors))
            return {key: backend.to_numpy(x) for key, x in run(*map(backend.put, inputs)).items()}

        ask.__doc__ = compute.__doc__
        vars(compute).update(vars(case(f"operations.{name}", level=level, operation="backend", metric=metric)(ask)))
        return compute

    return declare


def _normal(stream: int, *shape: int) -> np.ndarray:
    return generator(7, "conformance-operations", stream).standard_normal(shape).astype(np.float32)


SCORES = np.array(
    [
        [1e4, 9.99e3, -1e4, 0.0, 1e4],
        [-np.inf, -np.inf, 3.0, -np.inf, -np.inf],
        [2.0, 2.0, 2.0, 2.0, 2.0],
        [-3e38, -3e38, -3e38, -3e38, -2.9e38],
        [1e-30, -1e-30, 0.0, 80.0, -80.0],
    ],
    np.float32,
)
ROWS = np.stack(
    [
        _normal(0, 24),
        np.full(24, 5.0),
        5.0 + 0.1 * _normal(1, 24),
        1e3 * _normal(2, 24),
        np.zeros(24),
        1e-4 * _normal(3, 24),
    ]
).astype(np.float32)[:, None]  # [B, 1, D]
GAIN, BIAS = 1.0 + 0.3 * _normal(4, 24), 0.3 * _normal(5, 24)
POINTS = np.concatenate([np.linspace(-30, 30, 121), [1e-3, -1e-3, 1e-6, -1e-6, 1e-20]]).astype(np.float32)[:, None]
QUERIES = np.stack([30.0 * _normal(6, 3, 4, 8), 1e-3 * _normal(7, 3, 4, 8)]).astype(np.float32)  # [B, H, T, d]
KEYS, VALUES = _normal(8, 2, 3, 16, 8), _normal(9, 2, 3, 16, 8)  # [B, H, C, d]
START = np.array([0, 12], np.int32)
LOGITS = np.stack([1e4 * _normal(10, 7), np.array([-80, 0, 80, 0, 0, 0, 0]), np.zeros(7), _normal(11, 7)]).astype(
    np.float32
)
TARGETS = np.array([3, 0, 6, 2], np.int32)
TIES = np.array([[1.0, 3.0, 2.0, 3.0, 1.0, -2.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [5, 4, 3, 2, 1, 0]], np.float32)
INDEX = np.array([[0, 5, 5], [2, 0, 1]], np.int32)
WIDE = _normal(12, 2, 5, 72)  # [B, T, 3D]


@program("softmax", SCORES)
def softmax(ops: TensorOps, x: Any) -> Tensors:
    """Huge scores, a single finite one, equal ones."""
    return {"softmax": ops.softmax(x)}


@program("layer-norm", ROWS, GAIN, BIAS)
def layer_norm(ops: TensorOps, x: Any, gain: Any, bias: Any) -> Tensors:
    """No variance, little, much, an offset; T = 1."""
    return {"layer_norm": ops.layer_norm(x, gain, bias, 1e-5)}


@program("gelu", POINTS)
def gelu(ops: TensorOps, x: Any) -> Tensors:
    """From -30 to 30, zero, and next to zero.

    Each point stands beside 1: an error counts relative to what is around it, not to a value next to zero.
    """
    return {"gelu": ops.concat([ops.gelu_tanh(x), ops.full(x.shape, 1.0, ops.dtype)], 1)}


@program("attention", QUERIES, KEYS, VALUES)
def attention(ops: TensorOps, q: Any, k: Any, v: Any) -> Tensors:
    """Whole context; sharp, flat and single positions."""
    return {
        "whole": ops.causal_attention(q, k[:, :, :4], v[:, :, :4]),
        "single": ops.causal_attention(q[:, :, :1], k[:, :, :1], v[:, :, :1]),
    }


@program("cached-attention", QUERIES, KEYS, VALUES, START)
def cached_attention(ops: TensorOps, q: Any, k: Any, v: Any, start: Any) -> Tensors:
    """Rows standing at their own positions."""
    return {"cached": ops.causal_attention(q, k, v, start=start)}


@program("cache-write", KEYS, QUERIES, START, metric="exact")
def cache_write(ops: TensorOps, cache: Any, new: Any, start: Any) -> Tensors:
    """Each row into its own slots, up to the last."""
    return {"cache": ops.cache_write(cache, new, start), "first": ops.cache_write(cache, new, None)}


@program("cross-entropy", LOGITS, TARGETS, metric="whole")
def cross_entropy(ops: TensorOps, logits: Any, targets: Any) -> Tensors:
    """Huge logits, a certain and a hopeless target."""
    return {"losses": ops.cross_entropy(logits, targets)}


@program("order", TIES, metric="exact")
def order(ops: TensorOps, x: Any) -> Tensors:
    """Sort, argsort and argmax with ties; running sums.

    Equal values keep their order, both ways.
    """
    return {
        "sort": ops.sort(x, -1, descending=False),
        "sort-down": ops.sort(x, -1, descending=True),
        "argsort": ops.argsort(x, -1, descending=False),
        "argsort-down": ops.argsort(x, -1, descending=True),
        "argmax": ops.argmax(x, -1),
        "max": ops.max(x, -1, keepdims=True),
        "cumulative": ops.cumulative_sum(x, -1),
    }


@program("indexing", ROWS, INDEX, metric="exact")
def indexing(ops: TensorOps, x: Any, index: Any) -> Tensors:
    """Rows, columns and entries by index, repeated ones too."""
    matrix = ops.reshape(x, (6, 24))
    return {
        "rows": ops.take(matrix, index, 0),
        "columns": ops.take(matrix, index, 1),
        "entries": ops.take_along_axis(matrix[:2], index, 1),
        "joined": ops.concat([matrix, ops.permute_dims(ops.reshape(x, (24, 6)), (1, 0))], 0),
    }


@program("arithmetic", POINTS, metric="whole")
def arithmetic(ops: TensorOps, x: Any) -> Tensors:
    """Exp, log, sqrt, tanh, where, sums."""
    positive = x * x + 1e-6
    return {
        "exp": ops.exp(x / 10.0),
        "log": ops.log(positive),
        "sqrt": ops.sqrt(positive),
        "tanh": ops.tanh(x / 8.0),
        "where": ops.where(x > 0.0, x, 0.5 * x),
        "sum": ops.sum(positive, None, keepdims=False),
        "mean": ops.mean(positive, 0),
    }


@program("global-norm", ROWS, GAIN, POINTS, metric="whole", level="train")
def global_norm(ops: TensorOps, *tensors: Any) -> Tensors:
    """Tensors of all sizes, from 1e-15 to 1e15."""
    return {
        "norm": ops.global_norm(list(tensors)),
        "large": ops.global_norm([1e12 * x for x in tensors]),
        "small": ops.global_norm([1e-12 * x for x in tensors]),
    }


@program("heads", WIDE, metric="exact")
def heads(ops: TensorOps, x: Any) -> Tensors:
    """Queries, keys and values side by side; heads merged back."""
    q, k, v = ops.split_heads(x, 3)
    return {"q": q, "k": k, "v": v, "merged": ops.merge_heads(v)}
