"""This module detects spikes: losses and gradients far above those before them, or not finite.

A value is far above if it exceeds the mean of the last `WINDOW` by more than so many of their standard deviations, as
in llm.c's outlier detector (github.com/karpathy/llm.c, llmc/outlier_detector.h). Nothing is judged before the window is
full.
"""

import math
from collections import deque
from collections.abc import Iterable

WINDOW = 128


class SpikeDetector:
    """The last values of a figure, and whether a new one departs from them.

    Attributes:
        limit: standard deviations above the mean from which a value is a spike; 0 is never.
    """

    def __init__(self, limit: float, seen: Iterable[float] = ()) -> None:
        """`seen` are the values of the steps so far, in order; those that are no numbers do not count."""
        self.limit = limit
        self._values = deque((x for x in seen if math.isfinite(x)), maxlen=WINDOW)

    def departs(self, value: float) -> bool:
        """Whether `value` is a spike or no number."""
        if not math.isfinite(value):
            return True
        if not self.limit or len(self._values) < WINDOW:
            return False
        mean = math.fsum(self._values) / WINDOW
        deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in self._values) / WINDOW)
        return value > mean + self.limit * deviation

    def add(self, value: float) -> None:
        """Add a value to those with which the next is compared."""
        if math.isfinite(value):
            self._values.append(value)
