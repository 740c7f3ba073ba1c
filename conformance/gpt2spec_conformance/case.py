"""A case is one question for both a subject and the oracle, and how far apart their answers may be."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, TypeVar

import numpy as np

from gpt2spec_conformance.level import LEVELS
from gpt2spec_conformance.subject import Subject

Answer = dict[str, np.ndarray]
"""A subject's answer to a case, as arrays by name."""
Metric = Literal["rows", "whole", "gradients", "exact"]
Row = Mapping[str, Any]
"""The values, by name, for one of the cases that a function is declared to be."""
Ask = TypeVar("Ask", bound=Callable[..., Answer])


class Nonconformance(AssertionError):
    """Raised by a case that judges by itself: the message says what was found and what is right."""


class NotApplicable(Exception):
    """Raised by a case that cannot be asked of a subject, through no fault of the subject: the message says why."""


@dataclass(frozen=True)
class Case:
    """One question of the suite.

    Attributes:
        id: stable; the part before the first dot is its family.
        level: the name of the level that the case belongs to.
        operation: what of the subject it needs: one of `subject.OPERATIONS`, "backend" for the tensor operations and
            transforms themselves, or the name of a level whose backends have something of their own.
        summary: what holds if the case passes.
        ask: puts the question. It may raise `Nonconformance` or `NotApplicable`.
        metric: how far apart answers are: the worst row, a tensor as a whole, the gradients' own measure
            (see `error`), or equal to the bit.
        truth: the right answer, computed from the subject's own: for laws. Otherwise it is the oracle's.
        unit: what errors are measured in, a name in `error.EPSILON`; None for the dtype that the subject computes in.
    """

    id: str
    level: str
    operation: str
    summary: str
    ask: Callable[[Subject], Answer]
    metric: Metric = "rows"
    truth: Callable[[Answer], Answer] | None = None
    unit: str | None = None

    @property
    def family(self) -> str:
        """The part of the id before the first dot."""
        return self.id.partition(".")[0]


def case(
    id: str,
    *,
    level: str,
    operation: str,
    metric: Metric = "rows",
    truth: Callable[..., Answer] | None = None,
    unit: str | None = None,
    each: Sequence[Row] = ({},),
) -> Callable[[Ask], Ask]:
    """Declares the function below it as a case, or as one for each row of values.

    The first paragraph of the function's docstring is the summary, which is shown without its capital and full stop.
    In it and in `id`, `{name}` stands for the row's value of that name. The function is called with the subject, and
    like `truth` with those of the row's values that it has parameters for. Declarations of one function add up.

    Args:
        id: of the case.
        level: the name of a level.
        operation: what the case needs; see `Case` for this and what follows.
        metric: how far apart answers are.
        truth: the right answer from the subject's own.
        unit: what errors are measured in.
        each: the rows; see `product`.
    """
    if level not in LEVELS:
        raise ValueError(f"case {id} is of level {level!r}; there are {', '.join(LEVELS)}")

    def declare(ask: Ask) -> Ask:
        summary = " ".join((inspect.getdoc(ask) or "").partition("\n\n")[0].split())  # none under python -OO
        summary = (summary[:1].lower() + summary[1:]).removesuffix(".")
        cases = [
            Case(
                id.format(**row),
                level,
                operation,
                summary.format(**row),
                _given(ask, row),
                metric,
                truth and _given(truth, row),
                unit,
            )
            for row in each
        ]
        turns = [next(iter(row.values()), None) for row in each]
        declared_below = vars(ask).get("declared", [])
        vars(ask)["declared"] = [*zip(turns, cases, strict=True), *declared_below]
        return ask

    return declare


def product(**values: Iterable[Any]) -> list[Row]:
    """Every combination of some values by name, as rows; the last name changes fastest."""
    return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]


def declared_in(module: ModuleType) -> Iterator[Case]:
    """The cases that a module declares, in the order of their functions.

    Neighbours that share the values of their first parameter take turns: all of them are put with one set of weights
    before any is with the next.
    """
    own = [f for f in vars(module).values() if getattr(f, "__module__", None) == module.__name__]
    declared = [vars(f)["declared"] for f in own if "declared" in getattr(f, "__dict__", {})]
    for turns, group in itertools.groupby(declared, lambda cases: tuple(dict.fromkeys(turn for turn, _ in cases))):
        neighbours = [pair for cases in group for pair in cases]
        yield from (case for turn in turns for own_turn, case in neighbours if own_turn == turn)


def _given(function: Callable[..., Answer], row: Row) -> Callable[..., Answer]:
    """A function with those values of a row that it has parameters for."""
    taken = inspect.signature(function).parameters
    return functools.partial(function, **{name: value for name, value in row.items() if name in taken})


def all_hold(answer: Answer) -> Answer:
    """The truth of a case whose answer is 1 wherever something holds."""
    return {name: np.ones_like(x) for name, x in answer.items()}


def nothing_wrong() -> Answer:
    """The answer of a case that judges by itself and found nothing wrong."""
    return {"held": np.ones(1)}
