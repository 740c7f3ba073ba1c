"""Mistakes in the learning-rate schedule."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from gpt2spec.optimizer import WarmupCosine
from gpt2spec_conformance.mutants.fault import Mutant

SCHEDULE = "a line from peak / warm-up to peak, then half a cosine to final_fraction peak (optimizer.WarmupCosine)"
Rate = Callable[[Callable[[int], float], WarmupCosine, int], float]
"""The learning rate by `rate(right, schedule, update)`, where `right(update)` is the right one."""


def _half_cosine(schedule: WarmupCosine, progress: float) -> float:
    floor = schedule.peak * schedule.final_fraction
    return floor + (schedule.peak - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def _to(fraction: float) -> Rate:
    return lambda right, schedule, update: dataclasses.replace(schedule, final_fraction=fraction)(update)


def _whole_run(right: Any, schedule: WarmupCosine, update: int) -> float:
    return right(update) if update <= schedule.warmup else _half_cosine(schedule, min(1.0, update / schedule.steps))


def _after_warmup(right: Any, schedule: WarmupCosine, update: int) -> float:
    later = update - schedule.warmup
    return right(update) if later <= 0 else _half_cosine(schedule, min(1.0, later / schedule.steps))


def _restarting(right: Any, schedule: WarmupCosine, update: int) -> float:
    progress = (update - schedule.warmup) / (schedule.steps - schedule.warmup)
    return right(update) if progress <= 0.0 else _half_cosine(schedule, progress)


def _line_down(right: Any, schedule: WarmupCosine, update: int) -> float:
    progress = (update - schedule.warmup) / (schedule.steps - schedule.warmup)
    floor = schedule.peak * schedule.final_fraction
    return right(update) if progress <= 0.0 else max(floor, schedule.peak + (floor - schedule.peak) * progress)


def _quarter_cosine(right: Any, schedule: WarmupCosine, update: int) -> float:
    progress = min(1.0, (update - schedule.warmup) / (schedule.steps - schedule.warmup))
    return right(update) if progress <= 0.0 else schedule.peak * math.cos(0.5 * math.pi * progress)


def _no_warmup(right: Any, schedule: WarmupCosine, update: int) -> float:
    return schedule.peak if update <= schedule.warmup else right(update)


def _rate(name: str, summary: str, rate: Rate, killed_by: str = "brief") -> Mutant:
    """Replaces the learning rates, counted from update 1."""

    def learning_rates(original: Any, schedule: WarmupCosine, updates: Sequence[int]) -> list[float]:
        return [rate(lambda update: original(schedule, [update])[0], schedule, update) for update in updates]

    case = f"schedule.warmup-cosine.{killed_by}"
    return Mutant(name, summary, SCHEDULE, case, subject={"learning_rates": learning_rates})


MUTANTS = [
    _rate(
        "warmup-from-zero",
        "updates counted from 0: the first learning rate is 0",
        lambda right, schedule, update: right(update - 1),
    ),
    _rate(
        "warmup-ahead",
        "updates counted from 2: the peak comes one early",
        lambda right, schedule, update: right(update + 1),
    ),
    _rate("warmup-none", "no warm-up: the peak from the first update", _no_warmup),
    _rate("cosine-to-tenth", "the cosine ends at a tenth of the peak", _to(0.1)),
    _rate("cosine-to-zero", "the cosine ends at zero, where a floor was asked for", _to(0.0), "floor"),
    _rate("cosine-of-whole-run", "the cosine's progress counts the warm-up: it begins below the peak", _whole_run),
    _rate("cosine-too-long", "the cosine ends `steps` updates after the warm-up", _after_warmup),
    _rate("cosine-restarts", "beyond its end the cosine rises again", _restarting),
    _rate("cosine-quarter", "a quarter of a cosine, not (1 + cos) / 2", _quarter_cosine),
    _rate("cosine-linear", "a line for the cosine", _line_down),
]
