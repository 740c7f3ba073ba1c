"""This module decompresses gzip, xz and Zstandard files.

A file may hold several streams one after another, as parallel compressors write them. A file is damaged if it ends
before its last stream does, or holds anything but streams. All of it is then refused, because nobody could tell how
much is missing.
"""

from __future__ import annotations

import lzma
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from gpt2spec.errors import ConfigError, DataError

COMPRESSIONS = {".gz": "gzip", ".xz": "xz", ".zst": "Zstandard"}
"""The compression that each suffix of a file stands for."""

_OUTPUT = 1 << 20
"""Bytes that are decompressed at a time, because a small file may hold a very large text."""
_LARGEST_WINDOW = 31
"""The binary logarithm of Zstandard's largest window, as with its option `--long=31`."""


def decompressed(chunks: Iterable[bytes], suffix: str, label: str) -> Iterator[bytes]:
    """The decompressed bytes of a file, a megabyte or less at a time.

    Args:
        chunks: the file's bytes.
        suffix: one of `COMPRESSIONS`.
        label: the file, for messages.

    Raises:
        DataError: for bytes that are damaged or end too early.
        ConfigError: where the library for this compression is not installed.
    """
    start, failures = _decompressor(suffix)
    padding = b"" if suffix == ".zst" else b"\0"
    stream, streams = None, 0
    try:
        for chunk in chunks:
            while chunk:
                if stream is None:
                    chunk = chunk.lstrip(padding) if streams and padding else chunk
                    stream, streams = start(), streams + 1
                    if not chunk:
                        stream = None
                        break
                yield from _output(stream, chunk)
                chunk = stream.unused_data if stream.eof else b""
                stream = None if stream.eof else stream
    except failures as error:
        raise DataError(f"{label} is damaged: its {COMPRESSIONS[suffix]} data cannot be read ({error})") from None
    if stream is not None or not streams:
        raise DataError(f"{label} is cut off: its {COMPRESSIONS[suffix]} data ends too early; copy the file again")


class _Stream(Protocol):
    """A reader of one compressed stream, with the interface of the standard library's classes."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def _output(stream: _Stream, chunk: bytes) -> Iterator[bytes]:
    """All output of a stream for one more chunk."""
    data = stream.decompress(chunk, _OUTPUT)
    while data:
        yield data
        data = b"" if stream.eof or stream.needs_input else stream.decompress(b"", _OUTPUT)


class _GzipStream:
    """`zlib`'s reader of gzip streams with the interface of the others."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        found = self._stream.decompress(self._stream.unconsumed_tail + data, max_length)
        self.needs_input = len(found) < max_length and not self._stream.unconsumed_tail
        return found


def _decompressor(suffix: str) -> tuple[Callable[[], _Stream], type[Exception]]:
    """A function that makes a reader for one stream, and the exception that the reader raises for wrong bytes."""
    if suffix == ".gz":
        return _GzipStream, zlib.error
    if suffix == ".xz":
        return lzma.LZMADecompressor, lzma.LZMAError
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise ConfigError(
            "reading .zst files needs the package backports.zstd: pip install 'gpt2spec[zstd]', or decompress "
            "the files with zstd -d"
        ) from None
    options = {int(zstd.DecompressionParameter.window_log_max): _LARGEST_WINDOW}
    return lambda: zstd.ZstdDecompressor(options=options), zstd.ZstdError
