"""Output that may fail: showing progress is worth less than the work itself."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def best_effort() -> Iterator[None]:
    """Ignore errors of output in this block, as when the terminal has gone or the disk of a log is full.

    `BrokenPipeError` is still raised, because a command ends when the reader of its output has ended.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError:
        pass
