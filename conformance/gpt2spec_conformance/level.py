"""The levels of conformance: what an implementation can claim to be right in.

A level is one entry of `LEVELS` and the cases that name it. This module imports nothing heavy: pytest and the command
line read it before anything is judged.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol


class Judged(Protocol):
    """What levels need to know of a subject to say whether they are meant for it."""

    @property
    def decoding_weights(self) -> str | None:
        """What weights are rounded to in decoding; None where they are not."""


def _decodes_with_exact_weights(subject: Judged) -> bool:
    """Weights that are rounded to something without a level of its own are judged as if they were not."""
    return subject.decoding_weights not in LEVELS


def _decodes_with_int8_weights(subject: Judged) -> bool:
    return subject.decoding_weights == "int8"


@dataclass(frozen=True)
class Level:
    """A set of cases that a subject passes, fails, or does not claim.

    Attributes:
        name: what cases, options, reports and badges call the level.
        divergences: where a subject goes wrong whose first failed cases are of this family, by family of cases. The
            families of all levels are searched in the order in which they stand here.
        applies: whether the level is meant for a subject. A case may ask for an operation of the level's name, which
            backends have for which this holds.
        audience: what the subjects are called for which the level is meant.
        epsilon: the level's own unit of errors, which its cases may name; None where they are measured in epsilons of
            the dtype that a subject computes in.
        by_default: whether pytest puts the level to a subject when no level is asked for.
    """

    name: str
    divergences: Mapping[str, str]
    applies: Callable[[Judged], bool] = _decodes_with_exact_weights
    audience: str = "backends that do not"
    epsilon: float | None = None
    by_default: bool = True


LEVELS: Mapping[str, Level] = {
    level.name: level
    for level in (
        Level("inference", {}),
        Level(
            "gradient",
            {"gradient": "the backward pass; the forward pass agrees", "loss": "the loss; the logits agree"},
        ),
        Level(
            "train",
            {
                "optimizer": "the optimizer's update",
                "schedule": "the learning-rate schedule",
                "initial": "the initial weights",
                "dropout": "dropout",
            },
        ),
        Level(
            "decode",
            {
                "decode": "decoding; the whole pass agrees",
                "lengths": "decoding of long texts; that of short ones agrees",
            },
        ),
        Level(
            "int8",
            {"int8": "int8 weights in decoding; decoding with exact weights agrees"},
            applies=_decodes_with_int8_weights,
            audience="backends that decode in int8",
            epsilon=2.0**-7,  # nearly a step, where the largest number is 1
            by_default=False,
        ),
    )
}
"""Every level by name, in the order in which their cases are put: what explains most comes first."""
DEFAULT_LEVELS = tuple(level.name for level in LEVELS.values() if level.by_default)


def level_names() -> str:
    """The levels' names as a list in words, such as "inference, gradient or train"."""
    *names, last = LEVELS
    return f"{', '.join(names)} or {last}"
