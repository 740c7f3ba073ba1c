"""Ctrl-C and SIGTERM, received between steps."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interruptions(tell: Callable[[str], None]) -> Iterator[list[int]]:
    """A list that Ctrl-C and SIGTERM put their signal into, so that the step at hand can end well.

    A second Ctrl-C interrupts at once. Outside the main thread, signals are left alone.
    """
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        tell("finishing this step, then saving; once more stops without saving")

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
