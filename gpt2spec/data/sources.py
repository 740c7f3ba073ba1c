"""Where text comes from: files, folders of files, and text already in memory.

Text is read in pieces, so that a file may be larger than memory, and exactly as it is: no line ending or other
character is changed.
"""

from __future__ import annotations

import codecs
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gpt2spec.errors import DataError

CHUNK_BYTES = 1 << 20
NOT_PLAIN_TEXT = {".bin", ".gz", ".json", ".jsonl", ".parquet", ".zip", ".zst"}


@dataclass(frozen=True)
class Source:
    """One document: its name, which goes into the manifest, and how to open its bytes."""

    name: str
    label: str
    open: Callable[[], BinaryIO]


@dataclass(frozen=True)
class Survey:
    """What reading a source once tells: its size in bytes and in characters, and a hash of its bytes."""

    source: Source
    bytes: int
    characters: int
    sha256: str


def find_sources(paths: Iterable[Path]) -> list[Source]:
    """The documents at some paths: files as they are given, folders as all their `.txt` files, sorted by path.

    Raises `DataError` for a path that does not exist, a file that is known not to be plain text, and a folder
    without `.txt` files.
    """
    sources = [source for path in paths for source in _sources_at(path)]
    if not sources:
        raise DataError("no text was given: name a .txt file or a folder of .txt files")
    return sources


def text_source(name: str, text: str) -> Source:
    """A document that is already in memory."""
    return Source(name, name, lambda: io.BytesIO(text.encode("utf-8")))


def survey(source: Source, progress: Callable[[int], object] = lambda count: None) -> Survey:
    """Read a source once, telling `progress` the number of bytes read; errors as in `read_text`."""
    digest = hashlib.sha256()
    size = characters = 0
    for data, text in _read(source):
        digest.update(data)
        size += len(data)
        characters += len(text)
        progress(len(data))
    return Survey(source, size, characters, digest.hexdigest())


def read_text(source: Source, start: int = 0, stop: int | None = None) -> Iterator[str]:
    """Characters `start` to `stop` of a source, in pieces of about a megabyte.

    Raises `DataError` for a source that cannot be read or is not UTF-8, naming the offset of the first wrong byte.
    """
    position = 0
    for _, text in _read(source):
        part = text[max(0, start - position) : None if stop is None else max(0, stop - position)]
        position += len(text)
        if part:
            yield part
        if stop is not None and position >= stop:
            return


def _read(source: Source) -> Iterator[tuple[bytes, str]]:
    """The bytes of a source in pieces, and the characters that each piece completes."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    with _reading(source), source.open() as file:
        position = 0
        while True:
            data = file.read(CHUNK_BYTES)
            pending = len(decoder.getstate()[0])  # bytes of an unfinished character, before `data`
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                offset = position - pending + error.start
                raise DataError(
                    f"{source.label} is not UTF-8 text: the byte 0x{error.object[error.start]:02x} at offset {offset} "
                    f"is wrong ({error.reason}); convert it, for example with iconv"
                ) from None
            if not data:
                return
            yield data, text
            position += len(data)


@contextmanager
def _reading(source: Source) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot read {source.label}: {error.strerror or error}") from error


def _sources_at(path: Path) -> list[Source]:
    if path.is_dir():
        # A dangling link is kept here, so that it is reported when it is opened.
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() == ".txt" and not p.is_dir())
        if not found:
            raise DataError(f"the folder {path} has no .txt files")
        return [_file_source(p.relative_to(path).as_posix(), p) for p in found]
    if not path.exists():
        raise DataError(f"{path} does not exist: name a .txt file or a folder of .txt files")
    if not path.is_file():
        raise DataError(f"{path} is neither a file nor a folder; it cannot be read twice, as preparing needs to")
    if path.suffix.lower() in NOT_PLAIN_TEXT:
        raise DataError(f"{path} is not plain text: {path.suffix} files cannot be read; give .txt")
    return [_file_source(path.name, path)]


def _file_source(name: str, path: Path) -> Source:
    return Source(name, str(path), lambda: path.open("rb"))
