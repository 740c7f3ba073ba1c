"""This module finds and reads text: files, folders, globs, standard input, and text already in memory.

Everything is read once, in pieces, so that a file may be larger than memory. No line ending or other character is
changed.
"""

from __future__ import annotations

import codecs
import errno
import glob
import hashlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gpt2spec.data.compression import COMPRESSIONS, decompressed
from gpt2spec.errors import ConfigError, DataError, nearest
from gpt2spec.files import data_errors

CHUNK_BYTES = 1 << 20
FORMATS = ("txt", "jsonl", "csv", "parquet")
NOT_TEXT = {".bin", ".json", ".npy", ".pkl", ".zip"}
READABLE = ".txt, .jsonl, .csv or .parquet, or the first three with .gz, .xz or .zst after that"
STANDARD_INPUT = Path("-")


@dataclass(frozen=True)
class Source:
    """A file or stream of text.

    Attributes:
        name: its name in the manifest.
        label: its name in messages.
        open: opens it for reading bytes.
        format: one of `FORMATS`.
        compression: one of `COMPRESSIONS`, or an empty string.
        path: where it is, if it is a file.
        stream: whether it can be read only once.
    """

    name: str
    label: str
    open: Callable[[], BinaryIO]
    format: str = "txt"
    compression: str = ""
    path: Path | None = None
    stream: bool = False


class Pass:
    """One reading of a source, which counts and hashes its bytes as they are on disk.

    Attributes:
        source: what is read.
        bytes: how many bytes have been read.
        offset: how many of these bytes the documents yielded so far take, for progress.
    """

    def __init__(self, source: Source) -> None:
        """Begin with nothing read."""
        self.source, self.bytes, self.offset = source, 0, 0
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """SHA-256, in hexadecimal, of the bytes that have been read."""
        return self._digest.hexdigest()

    def chunks(self) -> Iterator[bytes]:
        """The bytes of the source, decompressed; `DataError` where it cannot be read or is damaged."""
        if self.source.compression:
            return decompressed(self.stored(), self.source.compression, self.source.label)
        return self.stored()

    def stored(self) -> Iterator[bytes]:
        """The bytes of the source as they are on disk; `DataError` where it cannot be read."""
        with data_errors(self.source.label), self.source.open() as file:
            while data := file.read(CHUNK_BYTES):
                self._digest.update(data)
                self.bytes += len(data)
                self.offset = self.bytes
                yield data

    def text(self) -> Iterator[str]:
        """The characters of the source; bytes that are not UTF-8 are a `DataError` with the offset of the first."""
        decoder = codecs.getincrementaldecoder("utf-8")("strict")
        decoded = 0  # bytes
        for data in _and_end(self.chunks()):
            pending = len(decoder.getstate()[0])  # bytes of an unfinished character, before `data`
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                offset = decoded - pending + error.start
                raise DataError(
                    f"{self.source.label} is not UTF-8 text: the byte 0x{error.object[error.start]:02x} at offset "
                    f"{offset} is wrong ({error.reason}); convert it, for example with iconv"
                ) from None
            decoded += len(data)
            if text:
                yield text


def read_text(source: Source) -> Iterator[str]:
    """The text of a source of format `txt`, in pieces of about a megabyte. Errors are those of `Pass.text`."""
    return Pass(source).text()


def find_sources(paths: Iterable[Path], form: str | None = None) -> list[Source]:
    """The sources at the given paths. A folder stands for all files in it that can be read, sorted by path.

    A path that does not exist is a glob if it has `*`, `?` or `[`; `-` is standard input.

    Args:
        paths: where to look.
        form: one of `FORMATS`, whatever the names of the files say; None follows the names.

    Raises:
        DataError: for a path that does not exist, a file that is known not to be text, and a folder without text.
        ConfigError: for an unknown format.
    """
    if form is not None and form not in FORMATS:
        raise ConfigError(f"there is no format {form!r}{nearest(form, FORMATS)}; there are {', '.join(FORMATS)}")
    sources = []
    for path in paths:
        try:
            sources += _sources_at(path, form)
        except OSError as error:
            raise DataError(f"cannot read {error.filename or path}: {error.strerror or error}") from error
    if not sources:
        raise DataError(f"no text was given: name files ({READABLE}) or folders of them")
    return sources


def text_source(name: str, text: str) -> Source:
    """A source for a document that is already in memory."""
    return Source(name, name, lambda: io.BytesIO(text.encode("utf-8")))


def has_text(folder: Path) -> bool:
    """Whether `find_sources` would take any file in a folder or in those below it."""
    return bool(_texts_in(folder))


def _sources_at(path: Path, form: str | None) -> list[Source]:
    if path == STANDARD_INPUT:
        if form == "parquet":
            raise DataError("Parquet is not read from standard input, but from files")
        return [Source("standard input", "standard input", _standard_input, form or "txt", stream=True)]
    if path.is_dir():
        found = _texts_in(path)
        if not found:
            raise DataError(f"the folder {path} has no text: no file in it is {READABLE}")
        return [_file_source(p.relative_to(path).as_posix(), p, form) for p in found]
    if not path.exists():
        pattern = str(path)
        names = glob.glob(pattern, recursive=True) if glob.has_magic(pattern) else []  # noqa: PTH207 it may be absolute
        matches = sorted(map(Path, names))
        if not matches:
            raise DataError(f"{path} does not exist: name a file ({READABLE}) or a folder of them")
        return [source for match in matches for source in _sources_at(match, form)]
    if not path.is_file() and not path.is_fifo():
        raise DataError(f"{path} is neither a file nor a folder")
    return [_file_source(path.name, path, form)]


def _file_source(name: str, path: Path, form: str | None) -> Source:
    """A file, read as its name says: `x.jsonl.gz` is compressed JSON lines, and an unknown suffix means plain text."""
    *rest, last = ["", *(suffix.lower() for suffix in path.suffixes)]
    compression = last if last in COMPRESSIONS else ""
    inner = (rest or [""])[-1] if compression else last
    if form is None and inner in NOT_TEXT:
        raise DataError(f"{path} is not text: {inner} files cannot be read; give {READABLE}")
    chosen = form or (inner[1:] if inner[1:] in FORMATS else "txt")
    if chosen == "parquet" and (compression or not path.is_file()):
        raise DataError(f"{path}: Parquet is read from plain files, not from compressed ones or streams")
    file, fifo = (None, True) if path.is_fifo() else (path, False)
    return Source(_readable(name), _readable(str(path)), lambda: path.open("rb"), chosen, compression, file, fifo)


def _readable(name: str) -> str:
    r"""A file's name as text, with `\x..` for bytes that are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise OSError(errno.EBADF, "it is closed")
    return sys.stdin.buffer


def _texts_in(folder: Path) -> list[Path]:
    """The files with text in a folder and in those below it, in order. Links to folders are not followed."""

    def fail(error: OSError) -> None:
        raise error

    # A dangling link is kept here, so that it is reported when it is opened.
    names = ((root, name) for root, _, names in os.walk(folder, onerror=fail) for name in names)
    found = sorted(path for root, name in names if _is_text(path := Path(root, name)))
    for path in found:
        if path.exists() and not path.is_file():
            raise DataError(f"{path} is no file: give a stream by itself, not in a folder")
    return found


def _is_text(path: Path) -> bool:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compressed = bool(suffixes) and suffixes[-1] in COMPRESSIONS
    inner = suffixes[-2:-1] if compressed else suffixes[-1:]
    return inner in ([f".{form}"] for form in FORMATS)


def _and_end(chunks: Iterable[bytes]) -> Iterator[bytes]:
    yield from chunks
    yield b""
