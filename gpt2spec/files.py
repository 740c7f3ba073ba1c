"""Files that are either whole or absent.

Everything is written under a temporary name in the same folder, synced to the disk and renamed, so that a
process killed at any moment leaves the old file or the new one. Failures to write are `StorageError`s.
"""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gpt2spec.errors import StorageError

_REASONS = {
    errno.ENOSPC: "there is no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than this system allows",
    errno.EACCES: "permission is denied",
    errno.EPERM: "the operation is not permitted",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a part of its path is a file, not a folder",
}


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
        temporary = _temporary(path)
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def atomic_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends well, and leaves no trace otherwise.

    `path` must not exist yet, unless as an empty folder, or as one to `replace`, which goes when the new one is whole.
    """
    with storage_errors(path):
        temporary = _temporary(path)
        try:
            temporary.mkdir()
            yield temporary
            publish_folder(temporary, path, replace)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def publish_folder(temporary: Path, path: Path, replace: bool = False) -> None:
    """Give a folder that is complete its name, after all in it is on the disk; one to `replace` is then removed."""
    with storage_errors(path):
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                file.chmod(0o666 & ~_umask())  # some writers make private files
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
        sync_folder(temporary)
        old = _temporary(path)
        if replace and path.exists():
            path.rename(old)
        temporary.rename(path)
        sync_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left unfinished in `folder`; finished files are never touched."""
    for path in folder.glob(".*.tmp"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


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


def _temporary(path: Path) -> Path:
    """A name beside `path` that nobody else has, known before anything is made: an interrupt can come at any moment."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _umask() -> int:
    """The permissions new files are to lack; there is no way to read it but to set it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
