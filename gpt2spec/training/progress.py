"""This module shows a run to people: a progress bar on a terminal, otherwise plain lines."""

import math
import sys
import time
from typing import Any

from tqdm import tqdm

from gpt2spec.best_effort import best_effort


class Progress:
    """Shows steps as they are reported, and messages between them, on standard error."""

    def __init__(self, first: int, steps: int, quiet: bool = False) -> None:
        self.steps, self.quiet, self.done = steps, quiet, first
        self.next_line = 0.0
        self.since: tuple[float, int] | None = None  # time and step of the first report, from which speed is measured
        self.bar: Any = None
        if not quiet and sys.stderr.isatty():
            self.bar = tqdm(total=steps, initial=first, unit="step", dynamic_ncols=True, smoothing=0.1)

    def step(self, record: dict[str, Any]) -> None:
        """Show the newest step."""
        if self.bar is not None:
            with best_effort():
                self.bar.set_postfix_str(_figures(record), refresh=False)
                self.bar.update(record["step"] - self.done)
        elif not self.quiet and (time.monotonic() >= self.next_line or record["step"] == self.steps):
            self.next_line = time.monotonic() + 10.0
            self._print(f"step {record['step']}/{self.steps}  {_figures(record)}{self._eta(record['step'])}")
        self.since = self.since or (time.monotonic(), record["step"])
        self.done = record["step"]

    def message(self, text: str) -> None:
        """Print a line."""
        if self.bar is not None:
            with best_effort():
                self.bar.write(text, file=sys.stderr)
        elif not self.quiet:
            self._print(text)

    def note(self, text: str) -> None:
        """Show a passing message in the bar, or as an occasional line."""
        if self.bar is not None:
            with best_effort():
                self.bar.set_postfix_str(text)
        elif not self.quiet and time.monotonic() >= self.next_line:
            self.next_line = time.monotonic() + 10.0
            self._print(text)

    def close(self) -> None:
        """Close the bar, which stays visible."""
        if self.bar is not None:
            with best_effort():
                self.bar.close()

    def _eta(self, step: int) -> str:
        if self.since is None or step <= self.since[1]:
            return ""
        seconds = (time.monotonic() - self.since[0]) / (step - self.since[1]) * (self.steps - step)
        return f"  ETA {_duration(seconds)}"

    def _print(self, text: str) -> None:
        with best_effort():
            print(text, file=sys.stderr, flush=True)


def _figures(record: dict[str, Any]) -> str:
    loss = math.nan if record["loss"] is None else record["loss"]
    return f"loss {loss:.4f}  lr {record['lr']:.2e}  {record['tokens_per_second']:,.0f} tokens/s"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
