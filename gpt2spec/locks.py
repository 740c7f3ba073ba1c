"""Locks that end with the process that holds them, however it ends.

They are `flock`'s: a lock of a killed process is nobody's. Some file systems have none, and Windows has others; there
nothing is locked.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def hold(descriptor: int) -> bool:
    """Lock an open file or folder until it is closed; False where it cannot be locked at all.

    NFS locks files that are open for writing, never folders. Raises `BlockingIOError` where another process holds it.
    """
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


@contextmanager
def held(path: Path, flags: int = os.O_RDONLY) -> Iterator[bool]:
    """`path`, opened with `flags`, and locked as by `hold`; `FileNotFoundError` where it lost its name meanwhile."""
    if os.name != "posix":  # folders cannot be opened
        yield False
        return
    descriptor = os.open(path, flags)
    try:
        alone = hold(descriptor)
        if not os.path.samestat(os.fstat(descriptor), path.stat()):
            raise FileNotFoundError(path)
        yield alone
    finally:
        os.close(descriptor)
