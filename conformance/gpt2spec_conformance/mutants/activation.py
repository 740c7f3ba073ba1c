"""Mistakes in GELU."""

import math
from collections.abc import Callable
from typing import Any

from gpt2spec.ops import Tensor, TensorOps
from gpt2spec_conformance.mutants.fault import Mutant

SPEC = "GELU is the tanh form with sqrt(2/pi) and 0.044715 (TensorOps.gelu_tanh)"
KILLED_BY = "model.logits.probe.L1"
ROOT = math.sqrt(2 / math.pi)
Gelu = Callable[[Any, TensorOps, Tensor], Tensor]


def _tanh_form(root: float = ROOT, cubic: float = 0.044715) -> Gelu:
    def gelu(original: Any, ops: TensorOps, x: Tensor) -> Tensor:
        return 0.5 * x * (1.0 + ops.tanh(root * (x + cubic * (x * x * x))))

    return gelu


def _sigmoid_form(slope: float) -> Gelu:
    def gelu(original: Any, ops: TensorOps, x: Tensor) -> Tensor:
        return 0.5 * x * (1.0 + ops.tanh(0.5 * slope * x))  # x sigmoid(slope x)

    return gelu


def _by_erf(original: Any, ops: TensorOps, x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + _erf(ops, x / math.sqrt(2.0)))


def _erf(ops: TensorOps, x: Tensor) -> Tensor:
    """The error function to 1e-7, by Abramowitz & Stegun 7.1.26 with the sign put back by `where`."""
    size = ops.where(x < 0.0, 0.0 - x, x)
    t = 1.0 / (1.0 + 0.3275911 * size)
    polynomial = t * 1.061405429 - 1.453152027
    for coefficient in (1.421413741, -0.284496736, 0.254829592):
        polynomial = polynomial * t + coefficient
    erf = 1.0 - polynomial * t * ops.exp(0.0 - size * size)
    return ops.where(x < 0.0, 0.0 - erf, erf)


def _relu(original: Any, ops: TensorOps, x: Tensor) -> Tensor:
    return ops.where(x > 0.0, x, 0.0)


def _twice(original: Any, ops: TensorOps, x: Tensor) -> Tensor:
    return original(original(x))


def _without_half(original: Any, ops: TensorOps, x: Tensor) -> Tensor:
    return 2.0 * original(x)


def _without_x(original: Any, ops: TensorOps, x: Tensor) -> Tensor:
    return 0.5 * (1.0 + ops.tanh(ROOT * (x + 0.044715 * (x * x * x))))


def _gelu(name: str, summary: str, replacement: Gelu) -> Mutant:
    return Mutant(name, summary, SPEC, KILLED_BY, ops={"gelu_tanh": replacement})


MUTANTS = [
    _gelu("gelu-erf", "GELU by the error function (torch's default, nanoGPT) for the tanh form", _by_erf),
    _gelu("gelu-quick", "GELU as x sigmoid(1.702 x)", _sigmoid_form(1.702)),
    _gelu("gelu-silu", "SiLU, x sigmoid(x), for GELU", _sigmoid_form(1.0)),
    _gelu("gelu-relu", "ReLU for GELU", _relu),
    _gelu("gelu-0.04715", "GELU with 0.04715 for 0.044715", _tanh_form(cubic=0.04715)),
    _gelu("gelu-no-cubic", "GELU without the cubic term", _tanh_form(cubic=0.0)),
    _gelu("gelu-root-0.8", "GELU with sqrt(2/pi) rounded to 0.8", _tanh_form(root=0.8)),
    _gelu("gelu-root-pi/2", "GELU with sqrt(pi/2) for sqrt(2/pi)", _tanh_form(root=math.sqrt(math.pi / 2))),
    _gelu("gelu-no-half", "GELU without the factor 1/2", _without_half),
    _gelu("gelu-no-x", "GELU without the factor x: its gate alone", _without_x),
    _gelu("gelu-twice", "GELU applied twice, by the projection and by the MLP", _twice),
]
