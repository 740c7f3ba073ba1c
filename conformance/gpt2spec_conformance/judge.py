"""The judge measures the error of each tensor of an answer, in epsilons, and knows the budget of each case."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gpt2spec.errors import ConfigError
from gpt2spec_conformance.case import Answer, Case, Metric, Nonconformance
from gpt2spec_conformance.error import activation_error, gradient_errors, whole_error

BUDGETS = Path(__file__).with_name("budgets.json")
"""Case id -> the largest error of a right implementation, in epsilons; written by `budgets.py`."""


@dataclass(frozen=True)
class JudgedTensor:
    """A tensor of an answer beside the right one; `c_attn` counts as three, its queries, keys and values.

    Attributes:
        name: its name in the answer.
        error: its error in epsilons.
        index: where the largest difference is.
        found: the value there.
        expected: the right value there.
    """

    name: str
    error: float
    index: tuple[int, ...]
    found: float
    expected: float


def compare(found: Answer, expected: Answer, metric: Metric, dtype: str) -> list[JudgedTensor]:
    """Judges every tensor of an answer, the worst first. Raises `Nonconformance` where names or shapes differ."""
    if missing := sorted(set(expected) ^ set(found)):
        raise Nonconformance(f"the answer has {sorted(found)[:8]}; it differs from what is expected in {missing[:8]}")
    for name in expected:
        shapes = np.shape(found[name]), np.shape(expected[name])
        if shapes[0] != shapes[1]:
            raise Nonconformance(f"{name} has shape {list(shapes[0])}; {list(shapes[1])} is expected")
    tensors = [_judged(name, found, expected, error) for name, error in _errors(found, expected, metric, dtype).items()]
    return sorted(tensors, key=lambda tensor: -tensor.error)


def _errors(found: Answer, expected: Answer, metric: Metric, dtype: str) -> dict[str, float]:
    if metric == "gradients":
        return gradient_errors(found, expected, dtype)
    if metric == "exact":
        return {name: 0.0 if np.array_equal(found[name], e) else np.inf for name, e in expected.items()}
    measure = activation_error if metric == "rows" else whole_error
    return {name: measure(found[name], e, dtype) for name, e in expected.items()}


def _judged(name: str, found: Answer, expected: Answer, error: float) -> JudgedTensor:
    key, _, third = name.partition("[")
    f, e = np.asarray(found[key], np.float64), np.asarray(expected[key], np.float64)
    if third:
        which = "qkv".index(third[0])
        f, e = np.split(f, 3, -1)[which], np.split(e, 3, -1)[which]
    with np.errstate(invalid="ignore"):
        difference = np.where(f == e, 0.0, np.abs(f - e))
    index = np.unravel_index(int(np.argmax(np.where(np.isnan(difference), np.inf, difference))), f.shape)
    return JudgedTensor(name, error, tuple(map(int, index)), float(f[index]), float(e[index]))


@cache
def _budgets() -> dict[str, Any]:
    return json.loads(BUDGETS.read_text()) if BUDGETS.exists() else {"cases": {}}


def budget(case: Case, dtype: str) -> float:
    """The largest error of a right implementation in epsilons of `dtype`: as many of bfloat16's as of float32's.

    Raises `ConfigError` for a case without one: budgets are frozen, not guessed.
    """
    if case.metric == "exact":
        return 0.0
    try:
        return float(_budgets()["cases"][case.id])
    except KeyError:
        how = "`python -m gpt2spec_conformance.budgets` writes them"
        raise ConfigError(f"case {case.id} has no budget; {how}") from None
