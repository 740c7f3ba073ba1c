"""SIGTERM and SIGHUP end a command as usual, after unfinished files are removed and a line says so."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

ENDS = {
    getattr(signal, name): reason
    for name, reason in (("SIGTERM", "terminated"), ("SIGHUP", "the terminal was closed"))
    if hasattr(signal, name)
}
"""The signals, and the last line that a command prints when they end it."""


def end(number: int, frame: FrameType | None) -> None:
    """Remove unfinished files, then die of the signal. An exception could be caught by the code that is running."""
    from gpt2spec.files import remove_unfinished

    remove_unfinished()
    with suppress(OSError):
        os.write(2, f"gpt2spec: {ENDS[signal.Signals(number)]}\n".encode())
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


@contextmanager
def ending_signals() -> Iterator[None]:
    """Handle the signals by `end`, unless one is ignored or has another handler, or this is not the main thread."""
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
