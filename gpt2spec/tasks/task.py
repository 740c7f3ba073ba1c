"""The contract of a task: examples from files, requests about them, and scores from the answers."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from gpt2spec.metrics.uncertainty import standard_error
from gpt2spec.tasks.reader import Reader
from gpt2spec.tasks.requests import Asked, Request


@dataclass(frozen=True)
class Published:
    """Scores that others have published, and what speaks against comparing with them.

    Attributes:
        values: a score for each model, named by its parameters: "124M", "355M", "774M", "1558M".
        source: who published it, and where.
        caveat: in what its protocol differs, or what of it is unknown.
    """

    values: Mapping[str, float]
    source: str
    caveat: str = ""


@dataclass(frozen=True)
class Score:
    """One number, and everything needed to know what it means.

    Attributes:
        name: what is measured: "accuracy", "perplexity per word".
        value: the number; shares and F1 are in per cent.
        stderr: its standard error; NaN where there is none.
        count: over how many examples.
        protocol: how it was measured, in a few words.
        published: what it may be compared with; None if there is nothing.
        details: what it was computed from.
    """

    name: str
    value: float
    stderr: float
    count: int
    protocol: str
    published: Published | None = None
    details: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


def mean_score(
    name: str, values: Sequence[float] | np.ndarray, protocol: str, published: Published | None = None
) -> Score:
    """The mean of values from 0 to 1, one an example, in per cent."""
    mean = float(np.mean(values)) if len(values) else math.nan
    return Score(name, 100.0 * mean, 100.0 * standard_error(values), len(values), protocol, published)


class Task(ABC):
    """A benchmark. Examples are of whatever type the task likes."""

    @abstractmethod
    def read(self, path: Path) -> list[Any]:
        """The examples in a file or folder of the dataset's own format; `DataError` where it is another."""

    @abstractmethod
    def requests(self, example: Any, reader: Reader) -> list[Request]:
        """What is asked of the model about one example."""

    @abstractmethod
    def scores(self, examples: Sequence[Any], asked: Sequence[Asked], reader: Reader) -> list[Score]:
        """The scores, from what was asked about each example and answered."""
