"""Mistakes in adding up the gradients of micro-batches."""

from collections.abc import Callable, Sequence
from typing import Any

from gpt2spec.ops import Tensor, TensorOps
from gpt2spec_conformance.mutants.fault import Mutant

SPEC = "each part counts by its share of the batch's tokens (accumulation.py, TensorOps.accumulate)"
KILLED_BY = "gradient.accumulated.uneven"


def _last_only(original: Any, ops: TensorOps, totals: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    return gradients


def _averaged(original: Any, ops: TensorOps, totals: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    return [0.5 * (total + gradient) for total, gradient in zip(totals, gradients, strict=True)]


def _weighted(name: str, summary: str, change: Callable[[Sequence[int]], list[float]]) -> Mutant:
    core = {"gpt2spec.accumulation.shares": lambda original, sizes: change(sizes)}
    return Mutant(name, summary, SPEC, KILLED_BY, core=core)


def _accumulated(name: str, summary: str, replacement: Callable[..., list[Tensor]]) -> Mutant:
    return Mutant(name, summary, SPEC, KILLED_BY, ops={"accumulate": replacement})


MUTANTS = [
    _weighted(
        "accumulation-mean-of-means",
        "every part counts the same, though the last one is smaller",
        lambda sizes: [1.0 / len(sizes)] * len(sizes),
    ),
    _weighted(
        "accumulation-sum",
        "the parts' mean losses are added, and not divided",
        lambda sizes: [1.0] * len(sizes),
    ),
    _weighted(
        "accumulation-largest-part",
        "every part is divided by as many as the largest would need",
        lambda sizes: [size / (len(sizes) * max(sizes)) for size in sizes],
    ),
    _accumulated("accumulation-last-only", "each part's gradient replaces the sum of those before it", _last_only),
    _accumulated("accumulation-running-average", "the sum so far and the new gradient are averaged", _averaged),
]
