"""Mistakes in GELU."""

import math
from collections.abc import Callable
from typing import Any

from gpt2spec.ops import Tensor, TensorOps
from gpt2spec_conformance.mutants.fault import Mutant

SPEC = "GELU is the tanh form with sqrt(2/pi) and 0.044715 (TensorOps.gelu_tanh)"


def _tanh_form(root: float, cubic: float) -> Callable[..., Tensor]:
    def gelu(original: Any, ops: TensorOps, x: Tensor) -> Tensor:
        return 0.5 * x * (1.0 + ops.tanh(root * (x + cubic * (x * x * x))))

    return gelu


MUTANTS = [
    Mutant(
        "gelu-0.04715",
        "GELU with 0.04715 for 0.044715",
        SPEC,
        "model.logits.probe.L1",
        ops={"gelu_tanh": _tanh_form(math.sqrt(2 / math.pi), 0.04715)},
    ),
]
