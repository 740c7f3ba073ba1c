"""SIGTERM and SIGHUP, which end a command as they always do, but leave nothing half written and say so."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

ENDS = {
    getattr(signal, name): reason
    for name, reason in (("SIGTERM", "terminated"), ("SIGHUP", "the terminal was closed"))
    if hasattr(signal, name)
}
"""Signals, and the last line of a command that they end."""


def end(number: int, frame: Any) -> None:
    """Clean up, and die of a signal. An exception could be swallowed: some code catches whatever an import raises."""
    from gpt2spec.files import remove_unfinished

    remove_unfinished()
    with suppress(OSError):
        os.write(2, f"gpt2spec: {ENDS[signal.Signals(number)]}\n".encode())
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


@contextmanager
def ending_signals() -> Iterator[None]:
    """Have `end` do it, unless a signal is ignored or somebody else's, or this is not the main thread."""
    ours = [number for number in ENDS if signal.getsignal(number) is signal.SIG_DFL]
    try:
        for number in ours:
            signal.signal(number, end)
    except ValueError:  # not the main thread
        ours = []
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
