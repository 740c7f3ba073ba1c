"""Mistakes in adding up the gradients of micro-batches."""

from collections.abc import Callable, Sequence
from typing import Any

from gpt2spec.ops import Tensor, TensorOps
from gpt2spec_conformance.mutants.fault import Mutant

SPEC = "each part counts by its share of the batch's tokens (accumulation.py, TensorOps.accumulate)"
KILLED_BY = "gradient.accumulated.uneven"


def _shares(change: Callable[[Sequence[int]], list[float]]) -> dict[str, Callable[..., Any]]:
    return {"gpt2spec.accumulation.shares": lambda original, sizes: change(sizes)}


def _last_only(original: Any, ops: TensorOps, totals: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    return gradients


def _averaged(original: Any, ops: TensorOps, totals: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    return [0.5 * (total + gradient) for total, gradient in zip(totals, gradients, strict=True)]


MUTANTS = [
    Mutant(
        "accumulation-mean-of-means",
        "every part counts the same, though the last one is smaller",
        SPEC,
        KILLED_BY,
        core=_shares(lambda sizes: [1.0 / len(sizes)] * len(sizes)),
    ),
    Mutant(
        "accumulation-sum",
        "the parts' mean losses are added, and not divided",
        SPEC,
        KILLED_BY,
        core=_shares(lambda sizes: [1.0] * len(sizes)),
    ),
    Mutant(
        "accumulation-largest-part",
        "every part is divided by as many as the largest would need",
        SPEC,
        KILLED_BY,
        core=_shares(lambda sizes: [size / (len(sizes) * max(sizes)) for size in sizes]),
    ),
    Mutant(
        "accumulation-last-only",
        "each part's gradient replaces the sum of those before it",
        SPEC,
        KILLED_BY,
        ops={"accumulate": _last_only},
    ),
    Mutant(
        "accumulation-running-average",
        "the sum so far and the new gradient are averaged",
        SPEC,
        KILLED_BY,
        ops={"accumulate": _averaged},
    ),
]
