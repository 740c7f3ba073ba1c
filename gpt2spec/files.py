"""This module writes files and folders so that they are either complete or absent.

Everything is written under a temporary name in the same folder, synced to the disk and renamed, so that a process
killed at any moment leaves either the old file or the new one. Its unfinished file is removed by the next process that
writes the same file. Failures to write are a `StorageError`.
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

from gpt2spec.errors import DataError, StorageError
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
"""The temporary names in use, which `remove_unfinished` removes."""


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` from writing `path` into a `StorageError` that says why."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        raise StorageError(f"cannot write {path}: {reason}") from error


@contextmanager
def data_errors(what: object) -> Iterator[None]:
    """Turn an `OSError` from reading `what`, such as a path, into a `DataError` that says why."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot read {what}: {error.strerror or error}") from error


def make_folder(path: Path) -> Path:
    """Make a folder with its parents, if it is missing, and return its path."""
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` at the end of the block, or is removed if the block raises."""
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
    """A temporary folder that becomes `path` at the end of the block, or is removed if the block raises.

    Unless `replace` is set, `path` must be missing or an empty folder.
    """
    with storage_errors(path):
        remove_abandoned(path)
        with _temporary(path) as temporary:
            temporary.mkdir()
            with held(temporary):
                yield temporary
                publish_folder(temporary, path, replace)


def publish_folder(temporary: Path, path: Path, replace: bool = False) -> None:
    """Rename a complete folder to `path`, after everything in it is on the disk.

    With `replace`, an older folder of that name loses it in the same instant and is then removed.
    """
    with storage_errors(path):
        permissions = temporary.stat().st_mode & 0o666  # those of new files; some libraries make private ones
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                file.chmod(permissions)
                with file.open("r+b") as opened:  # Windows syncs only files that are open for writing
                    os.fsync(opened.fileno())
            elif file.is_dir():
                sync_folder(file)
        sync_folder(temporary)
        old = path.with_name(f".{path.name}.old.tmp")
        if replace and path.is_dir():
            shutil.rmtree(old, ignore_errors=True)
            # After the exchange, the old folder must not have the temporary name: a preparation is resumed from that.
            temporary.rename(old)
            exchange(old, path)
        else:
            temporary.rename(path)
        sync_folder(path.parent)
        for former in (old, _swap_name(path)):
            shutil.rmtree(former, ignore_errors=True)


def exchange(one: Path, other: Path) -> None:
    """Exchange the names of two folders, atomically if the system and file system can, otherwise in three steps."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (OSError, TypeError, AttributeError):  # only Linux has it
        swapped = False
    else:
        here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        swapped = renameat2(here, os.fsencode(one), here, os.fsencode(other), swap) == 0
    if not swapped:
        between = _swap_name(other)
        shutil.rmtree(between, ignore_errors=True)  # left by a process that was killed between the steps
        other.rename(between)
        one.rename(other)
        between.rename(one)


def remove_abandoned(path: Path) -> None:
    """Remove the unfinished files of `path` that killed processes left. One that is being written is locked."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.????????.tmp"):
        with suppress(OSError), held(leftover) as alone:
            if alone:
                _remove(leftover)


def remove_unfinished() -> None:
    """Remove all unfinished files of this process, which is about to end."""
    for path in tuple(_unfinished):
        _remove(path)


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files that killed processes left in `folder`."""
    for path in folder.glob(".*.tmp"):
        _remove(path)


def sync_folder(folder: Path) -> None:
    """Sync renames within `folder` to the disk, on systems that can open folders."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of_file(path: Path, progress: Callable[[int], object] = lambda count: None) -> str:
    """SHA-256 of a file in hexadecimal; `progress` is called with the number of bytes of each read."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            progress(count)
    return digest.hexdigest()


class HashedFile:
    """A file that is written to, with the SHA-256 of all bytes written."""

    def __init__(self, file: BinaryIO) -> None:
        """Begin at the current position of `file`."""
        self._file, self.sha256 = file, hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        """Write contiguous bytes."""
        self._file.write(data)
        self.sha256.update(data)


def _swap_name(path: Path) -> Path:
    """The name that a folder has for a moment when it is exchanged in three steps."""
    return path.with_name(f".{path.name}.aside.tmp")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A unique name beside `path`. A file or folder with this name is removed if the block raises.

    The name is registered before the file is made, because an interrupt can come at any moment.
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
