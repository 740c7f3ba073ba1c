"""What is shown of a work may go unseen: it is worth less than the work."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def unseen() -> Iterator[None]:
    """Go on where a terminal has gone or the disk of a log is full.

    Only `BrokenPipeError` is raised: a command ends where whoever read its output has ended.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError:
        pass
