"""The contract of a task, which reads examples, makes requests about them, and computes scores from the answers."""

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
    """Scores that others have published, and why they may not be comparable.

    Attributes:
        values: a score for each model, named by its parameters: "124M", "355M", "774M", "1558M".
        source: who published it, and where.
        caveat: how its protocol differs, or what is unknown about it.
    """

    values: Mapping[str, float]
    source: str
    caveat: str = ""


@dataclass(frozen=True)
class Score:
    """A number, and everything needed to know what it means.

    Attributes:
        name: what is measured: "accuracy", "perplexity per word".
        value: the number; shares and F1 are in per cent.
        stderr: its standard error; NaN where there is none.
        count: the number of examples.
        protocol: how it was measured, in a few words.
        published: published scores to compare it with, or None.
        details: the numbers that it was computed from.
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
    """The mean, in per cent, of values from 0 to 1, one for each example."""
    mean = float(np.mean(values)) if len(values) else math.nan
    return Score(name, 100.0 * mean, 100.0 * standard_error(values), len(values), protocol, published)


class Task(ABC):
    """A benchmark. Its examples may have any type."""

    @abstractmethod
    def read(self, path: Path) -> list[Any]:
        """Read the examples from a file or folder in the dataset's own format; any other is a `DataError`."""

    @abstractmethod
    def requests(self, example: Any, reader: Reader) -> list[Request]:
        """The requests to the model about one example."""

    @abstractmethod
    def scores(self, examples: Sequence[Any], asked: Sequence[Asked], reader: Reader) -> list[Score]:
        """The scores, computed from the requests about each example and their answers."""
