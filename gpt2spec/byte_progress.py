"""This module shows progress in bytes on standard error: a bar on a terminal, otherwise a line every ten seconds."""

import sys
import time
from types import TracebackType
from typing import Any

from gpt2spec.best_effort import best_effort

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BEFORE_BAR = 0.5
"""Work that is done sooner shows no bar."""


class ByteProgress:
    """Counts bytes and shows how many are done, how many per second, and how much time is left.

    Attributes:
        done: the number of bytes so far.
    """

    def __init__(self, label: str, total: int | None, quiet: bool = False) -> None:
        """Begin to count now, up to `total` bytes if that is known."""
        self.label, self.total, self.quiet, self.done = label, total, quiet, 0
        self.start = self.last_line = time.monotonic()
        self.bar: Any = None
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(
                desc=label, total=total, unit="B", unit_scale=True, dynamic_ncols=True, leave=False,
                delay=SECONDS_BEFORE_BAR,
            )  # fmt: skip

    def __enter__(self) -> "ByteProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            with best_effort():
                self.bar.close()

    def add(self, count: int) -> None:
        """Count so many more bytes."""
        self.done += count
        if self.bar is not None:
            with best_effort():
                self.bar.update(count)
        elif not self.quiet and time.monotonic() >= self.last_line + SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            with best_effort():
                print(self._line(), file=sys.stderr, flush=True)

    def reach(self, done: int) -> None:
        """Set how many bytes are done in all."""
        self.add(done - self.done)

    def _line(self) -> str:
        from tqdm import tqdm

        rate = self.done / max(time.monotonic() - self.start, 1e-9)
        if self.total is None:
            return f"{self.label}  {self.done / 1e6:,.0f} MB  {rate / 1e6:,.0f} MB/s"
        eta = tqdm.format_interval((self.total - self.done) / max(rate, 1e-9))
        return f"{self.label}  {self.done / 1e6:,.0f}/{self.total / 1e6:,.0f} MB  {rate / 1e6:,.0f} MB/s  ETA {eta}"
