"""The progress of a session is shown on standard error: as a bar on a terminal, elsewhere as a line now and then."""

import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

from gpt2spec_conformance.case import Case

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts the cases of one subject; called before each of them, and closed at the end."""

    def __init__(self, subject: str, total: int, quiet: bool = False) -> None:
        self.subject, self.total, self.quiet = subject, total, quiet
        self.begun = 0
        self.start = self.last_line = time.monotonic()
        self.bar: Any = None
        if not quiet and sys.stderr.isatty():
            self.bar = tqdm(total=total, desc=subject, unit="case", dynamic_ncols=True, leave=False)

    def __call__(self, case: Case) -> None:
        """Notes that `case` begins, and thus that those before it are done."""
        if self.bar is not None:
            self.bar.update(self.begun - self.bar.n)
            self.bar.set_postfix_str(case.id)
        elif not self.quiet and time.monotonic() >= self.last_line + SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            print(self._line(), file=sys.stderr, flush=True)
        self.begun += 1

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Clears the bar away."""
        if self.bar is not None:
            self.bar.close()

    def _line(self) -> str:
        """Says how many cases are done, how fast, and how long the rest takes."""
        elapsed = max(time.monotonic() - self.start, 1e-9)
        rate = self.begun / elapsed
        left = f"  ETA {tqdm.format_interval((self.total - self.begun) / rate)}" if rate else ""
        return f"{self.subject}: {self.begun}/{self.total} cases  {rate:.1f} cases/s{left}"
