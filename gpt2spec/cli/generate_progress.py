"""This module shows how far `gpt2spec generate` is, by a bar on a terminal or by occasional lines, and its speed."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts new tokens and finished texts, and shows them on standard error.

    The total is the number of tokens if no text ends early; it decreases when one does.
    """

    def __init__(self, texts: int, max_new_tokens: int, silent: bool = False) -> None:
        """Begin to count now. `silent` shows no progress."""
        self.texts, self.max_new_tokens, self.silent = texts, max_new_tokens, silent
        self.total = texts * max_new_tokens
        self.tokens = self.finished = 0
        self.start = self.last_line = time.monotonic()
        self.first_token: float | None = None
        self.has_lines = False
        self.bar: Any = None
        if not silent and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=self.total, unit=" tokens", dynamic_ncols=True, leave=False)

    def add(self, tokens: int) -> None:
        """Count so many more tokens."""
        self.tokens += tokens
        if self.first_token is None:
            self.first_token = time.monotonic()
        if self.bar is not None:
            self.bar.update(tokens)
        elif not self.silent and time.monotonic() >= self.last_line + SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            self.has_lines = True
            print(self._line(), file=sys.stderr, flush=True)

    def finish(self, tokens: int) -> None:
        """Count a finished text, which has so many tokens."""
        self.finished += 1
        self.total -= self.max_new_tokens - tokens
        if self.bar is not None:
            self.bar.total = self.total
            self.bar.set_postfix_str(f"{self.finished:,}/{self.texts:,} texts", refresh=False)

    @contextmanager
    def bar_hidden(self) -> Iterator[None]:
        """Hide the bar while this block prints."""
        if self.bar is None or not sys.stdout.isatty():
            yield
        else:
            with self.bar.external_write_mode():
                yield

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()

    def summarise(self) -> None:
        """Print the speed, if standard error is a terminal or has lines of progress."""
        if not (sys.stderr.isatty() or self.has_lines):
            return
        seconds = max(time.monotonic() - self.start, 1e-9)
        first = "" if self.first_token is None else f", the first after {self.first_token - self.start:.2f} s"
        print(
            f"gpt2spec: {self.tokens:,} tokens in {seconds:.2f} s{first}: {self.tokens / seconds:,.0f} tokens/s",
            file=sys.stderr,
        )

    def _line(self) -> str:
        from tqdm import tqdm

        rate = self.tokens / max(time.monotonic() - self.start, 1e-9)
        left = f"  ETA {tqdm.format_interval((self.total - self.tokens) / rate)}" if rate else ""
        return f"{self.finished:,}/{self.texts:,} texts  {self.tokens:,} tokens  {rate:,.0f} tokens/s{left}"
