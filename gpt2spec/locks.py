"""This module locks files and folders with `flock`.

Such a lock is released when the process that holds it ends, even if it is killed. On Windows and on file systems
without `flock`, nothing is locked.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def hold(descriptor: int) -> bool:
    """Lock an open file or folder until it is closed. Returns False where it cannot be locked at all.

    NFS locks files that are open for writing, never folders. Raises `BlockingIOError` where another process holds the
    lock.
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
    """Open `path` with `flags` and `hold` it in this block; `FileNotFoundError` where it was renamed meanwhile."""
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
