"""A case: one question, put to a subject and to the oracle alike, and how far apart the answers may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gpt2spec_conformance.subject import Subject

Answer = dict[str, np.ndarray]
"""Named arrays: what a subject says to a case."""
Level = Literal["inference", "gradient", "train", "decode", "int8"]
EXACT_LEVELS: tuple[Level, ...] = ("inference", "gradient", "train", "decode")
LEVELS: tuple[Level, ...] = (*EXACT_LEVELS, "int8")
"""The last one is of those that decode with int8 weights, and of them alone."""
Metric = Literal["rows", "whole", "gradients", "exact"]


class Nonconformance(AssertionError):
    """Raised by a case that judges by itself: the message says what was found and what is right."""


class NotApplicable(Exception):
    """Raised by a case that cannot be asked of a subject, through no fault of the subject: the message says why."""


@dataclass(frozen=True)
class Case:
    """One question of the suite.

    Attributes:
        id: stable; the part before the first dot is its family.
        level: where the case belongs.
        operation: what of the subject it needs (see `subject.OPERATIONS`).
        summary: what holds if the case passes.
        ask: puts the question. It may raise `Nonconformance` or `NotApplicable`.
        metric: how far apart answers are: the worst row, a tensor as a whole, the gradients' own measure
            (see `error`), or equal to the bit.
        truth: the right answer, computed from the subject's own: for laws. Otherwise it is the oracle's.
        unit: the dtype in whose epsilons errors are measured; empty for the one that the subject computes in.
    """

    id: str
    level: Level
    operation: str
    summary: str
    ask: Callable[[Subject], Answer]
    metric: Metric = "rows"
    truth: Callable[[Answer], Answer] | None = None
    unit: str = ""

    @property
    def family(self) -> str:
        """The part of the id before the first dot."""
        return self.id.partition(".")[0]


def all_hold(answer: Answer) -> Answer:
    """The truth of a case whose answer is 1 wherever something holds."""
    return {name: np.ones_like(x) for name, x in answer.items()}


def told() -> Answer:
    """The answer of a case that judges by itself and found nothing wrong."""
    return {"held": np.ones(1)}
