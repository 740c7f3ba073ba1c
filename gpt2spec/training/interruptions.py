"""This module receives Ctrl-C, SIGTERM and SIGHUP between steps."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""The signals of the keyboard, of schedulers, and of a terminal that is closed."""
SAME = 1.0
"""A second signal within so many seconds is a copy of the first, because launchers pass signals on."""


@contextmanager
def interruptions(received: list[int], message: Callable[[str], None]) -> Iterator[None]:
    """Add signals to the list `received`, so that the current step can be finished.

    A second Ctrl-C, later than `SAME`, interrupts at once; whoever sends SIGTERM has SIGKILL for that. Outside the main
    thread, signals are left alone, and so is SIGHUP under `nohup`.
    """
    first = 0.0

    def note(number: int, frame: Any) -> None:
        nonlocal first
        if not received:
            first = time.monotonic()
            received.append(number)
            with suppress(OSError, RuntimeError):  # the terminal has gone; or it came in the middle of another line
                message("finishing this step, then saving; Ctrl-C once more stops without saving")
        elif number == signal.SIGINT and time.monotonic() - first > SAME:
            raise KeyboardInterrupt

    try:  # Ctrl-C is ignored in what a script runs in the background, where somebody who sends it means it
        heeded = [each for each in ENDING if each == signal.SIGINT or signal.getsignal(each) is not signal.SIG_IGN]
        before = {number: signal.signal(number, note) for number in heeded}
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
