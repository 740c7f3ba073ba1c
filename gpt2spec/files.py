"""Files that are either whole or absent.

Everything is written under a temporary name in the same folder, synced to the disk and renamed, so that a
process killed at any moment leaves the old file or the new one. What it leaves of an unfinished one is removed by the
next that writes the same. Failures to write are `StorageError`s.
"""

import ctypes
import errno
import glob
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from gpt2spec.errors import StorageError
from gpt2spec.locks import held, hold

_REASONS = {
    errno.ENOSPC: "there is no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than this system allows",
    errno.EACCES: "permission is denied",
    errno.EPERM: "the operation is not permitted",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a part of its path is a file, not a folder",
}
_unfinished: set[Path] = set()
"""Temporary names in use, by which `remove_unfinished` knows what there is."""


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` from writing `path` into a `StorageError` that says why."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        raise StorageError(f"cannot write {path}: {reason}") from error


def make_folder(path: Path) -> Path:
    """`path` as an existing folder, made with its parents where it was missing."""
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends well, and leaves no trace otherwise."""
    with storage_errors(path):
        remove_abandoned(path)
        with _temporary(path) as temporary:
            with temporary.open("xb") as file:
                hold(file.fileno())
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)


@contextmanager
def atomic_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends well, and leaves no trace otherwise.

    Unless it is to `replace` one, `path` must not exist yet, but as an empty folder.
    """
    with storage_errors(path):
        remove_abandoned(path)
        with _temporary(path) as temporary:
            temporary.mkdir()
            with held(temporary):
                yield temporary
                publish_folder(temporary, path, replace)


def publish_folder(temporary: Path, path: Path, replace: bool = False) -> None:
    """Give a folder that is complete its name, after all in it is on the disk.

    With `replace`, a folder that has the name already loses it in the same instant, and is removed then.
    """
    with storage_errors(path):
        permissions = temporary.stat().st_mode & 0o666  # what new files have; some writers make private ones
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                file.chmod(permissions)
                with file.open("r+b") as opened:  # Windows syncs only what could be written
                    os.fsync(opened.fileno())
            elif file.is_dir():
                sync_folder(file)
        sync_folder(temporary)
        old = path.with_name(f".{path.name}.old.tmp")
        if replace and path.is_dir():
            shutil.rmtree(old, ignore_errors=True)
            temporary.rename(old)  # the old folder must not get a name under which unfinished work is gone on with
            exchange(old, path)
        else:
            temporary.rename(path)
        sync_folder(path.parent)
        for former in (old, _aside(path)):
            shutil.rmtree(former, ignore_errors=True)


def exchange(one: Path, other: Path) -> None:
    """Let two folders swap their names: at once where system and file system can, otherwise one after the other."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (OSError, TypeError, AttributeError):  # only Linux has it
        swapped = False
    else:
        here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        swapped = renameat2(here, os.fsencode(one), here, os.fsencode(other), swap) == 0
    if not swapped:
        aside = _aside(other)
        shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed meanwhile
        other.rename(aside)
        one.rename(other)
        aside.rename(one)


def remove_abandoned(path: Path) -> None:
    """Remove what killed processes left of an unfinished `path`; one that is being written is locked."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.????????.tmp"):
        with suppress(OSError), held(leftover) as alone:
            if alone:
                _remove(leftover)


def remove_unfinished() -> None:
    """Remove what this process has not finished yet: the last thing it does."""
    for path in tuple(_unfinished):
        _remove(path)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left unfinished in `folder`; finished files are never touched."""
    for path in folder.glob(".*.tmp"):
        _remove(path)


def sync_folder(folder: Path) -> None:
    """Make renames within `folder` durable, where the system can open folders."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of_file(path: Path, progress: Callable[[int], object] = lambda count: None) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; `progress` is told how many more bytes have been read."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            progress(count)
    return digest.hexdigest()


class HashedFile:
    """A file that is written to, and the SHA-256 of all that was written, which need not be read again for it."""

    def __init__(self, file: BinaryIO) -> None:
        """Begin where `file` stands."""
        self._file, self.sha256 = file, hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        """Write contiguous bytes."""
        self._file.write(data)
        self.sha256.update(data)


def _aside(path: Path) -> Path:
    """Where a folder stands for a moment that is replaced in two steps."""
    return path.with_name(f".{path.name}.aside.tmp")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A name beside `path` that nobody else has, known before anything is made: an interrupt can come at any moment.

    What has it when the block ends badly is removed.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    _unfinished.add(temporary)
    try:
        yield temporary
    except BaseException:
        _remove(temporary)
        raise
    finally:
        _unfinished.discard(temporary)
