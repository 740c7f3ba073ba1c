"""This module shows on standard error how far `gpt2spec eval` is: a bar on a terminal, otherwise occasional lines."""

import sys
import time
from collections.abc import Callable
from typing import Any

SECONDS_BETWEEN_LINES = 10.0


class EvalProgress:
    """Counts answered requests; the remaining time is estimated from tokens."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.bar: Any = None
        self.task, self.requests, self.done = "", 0, 0
        self.tokens = self.read = 0
        self.start = self.last_line = time.monotonic()

    def begin(self, task: str, requests: int, done: int, tokens: int) -> None:
        """A task begins: `done` of its different requests were answered before; the others have `tokens` tokens."""
        self.task, self.requests, self.done, self.tokens, self.read = task, requests, done, tokens, 0
        self.start = self.last_line = time.monotonic()
        if done and not self.quiet:
            self._print(f"{task}: {done:,} of {requests:,} answers were kept from before")
        if not self.quiet and sys.stderr.isatty() and tokens:
            from tqdm import tqdm

            self.bar = tqdm(total=tokens, unit="token", unit_scale=True, desc=task, dynamic_ncols=True, leave=False)

    def advance(self, requests: int, tokens: int) -> None:
        """So many more requests, with so many tokens, were answered."""
        self.done += requests
        self.read += tokens
        if self.bar is not None:
            self.bar.set_postfix_str(f"{self.done:,}/{self.requests:,} requests", refresh=False)
            self._show(lambda: self.bar.update(tokens))
        elif not self.quiet and time.monotonic() >= self.last_line + SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            self._print(self._line())

    def report_interruption(self, kept: bool) -> None:
        """Print how many answers are kept after an interruption."""
        self.close()
        if kept and self.requests:
            self._print(
                f"gpt2spec: {self.done:,} of {self.requests:,} answers of {self.task} are kept; "
                "the same command goes on from there"
            )

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self._show(self.bar.close)
            self.bar = None

    def _line(self) -> str:
        from tqdm import tqdm

        rate = self.read / max(time.monotonic() - self.start, 1e-9)
        left = f"  ETA {tqdm.format_interval((self.tokens - self.read) / rate)}" if rate else ""
        return f"{self.task}: {self.done:,}/{self.requests:,} requests  {rate:,.0f} tokens/s{left}"

    def _print(self, text: str) -> None:
        self._show(lambda: print(text, file=sys.stderr, flush=True))

    def _show(self, show: Callable[[], object]) -> None:
        from gpt2spec.best_effort import best_effort

        with best_effort():
            show()
