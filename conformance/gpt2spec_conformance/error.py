"""Errors: how far numbers are from the truth, in epsilons of the dtype that they were computed in.

Errors are normwise: the length of the difference relative to the length of what is true. Elementwise tolerances
fail correct backends where a true value is near zero, or are so wide that they pass wrong ones.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np

from gpt2spec.errors import InputError
from gpt2spec_conformance.level import LEVELS

EPSILON = MappingProxyType(
    {
        **{level.name: level.epsilon for level in LEVELS.values() if level.epsilon is not None},
        "bfloat16": 2.0**-7,
        "float16": 2.0**-10,
        "float32": 2.0**-23,
        "float64": 2.0**-52,
    }
)
"""Units of errors by name: for a dtype, the distance from 1 to the next number, and those that levels have."""


def activation_error(found: np.ndarray, expected: np.ndarray, dtype: str) -> float:
    """The error of the worst row of [..., D], for logits, taps and whatever else belongs to single positions."""
    found, expected = _float64_pair(found, expected)
    return float(_relative(found - expected, expected, -1).max()) / EPSILON[dtype]


def whole_error(found: np.ndarray, expected: np.ndarray, dtype: str) -> float:
    """The error of a tensor as a whole, for gradients, updated weights and losses."""
    found, expected = _float64_pair(found, expected)
    return float(_relative(found.reshape(-1) - expected.reshape(-1), expected.reshape(-1), -1)) / EPSILON[dtype]


def gradient_errors(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], dtype: str
) -> dict[str, float]:
    """The `whole_error` of each weight's gradient, where queries, keys and values of `c_attn` count by themselves.

    A key bias adds the same number to all scores of a query, which softmax ignores: its true gradient is zero, and
    what is found instead is measured against the gradient of the whole `c_attn.bias`.
    """
    if missing := sorted(set(found) ^ set(expected)):
        raise InputError(f"the gradients differ in their names: {', '.join(missing)}")
    errors = {}
    for name, gradient in expected.items():
        for piece, f, e in _pieces(name, *_float64_pair(found[name], gradient)):
            true = gradient if piece.endswith("c_attn.bias[k]") else e
            errors[piece] = float(_relative((f - e).reshape(-1), np.asarray(true).reshape(-1), -1)) / EPSILON[dtype]
    return errors


def _pieces(name: str, found: np.ndarray, expected: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yields (name, found, expected) once, or thrice for `c_attn`: `h.0.attn.c_attn.weight[q]` and so on."""
    if ".c_attn." not in name:
        yield name, found, expected
        return
    for third, f, e in zip("qkv", np.split(found, 3, -1), np.split(expected, 3, -1), strict=True):
        yield f"{name}[{third}]", f, e


def _float64_pair(found: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        raise InputError(f"the shape is {list(found.shape)}; {list(expected.shape)} is expected")
    return found, expected


def _relative(difference: np.ndarray, expected: np.ndarray, axis: int) -> np.ndarray:
    """|difference| / |expected|, which is 0 where both are zero and infinite where a number is not finite."""
    distance, length = np.linalg.norm(difference, axis=axis), np.linalg.norm(expected, axis=axis)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.where(distance == 0, 0.0, distance / length)
    return np.where(np.isfinite(error), error, np.inf)
