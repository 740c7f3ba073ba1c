"""The bytes of compressed files: gzip, xz and Zstandard, to the end or not at all.

A file may hold several streams one after another, as parallel compressors write them. One that ends before its
stream does, or in which anything but streams stands, is damaged; what came before is no use then, for nobody could
tell how much is missing.
"""

from __future__ import annotations

import lzma
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from gpt2spec.errors import ConfigError, DataError

COMPRESSIONS = {".gz": "gzip", ".xz": "xz", ".zst": "Zstandard"}
"""What the suffix of a compressed file stands for."""

_OUTPUT = 1 << 20
"""Bytes that are decompressed at a time: a small file may hold a very large text."""
_LARGEST_WINDOW = 31
"""Binary logarithm of the farthest distance at which Zstandard may repeat itself: as with its `--long=31`."""


def decompressed(chunks: Iterable[bytes], suffix: str, label: str) -> Iterator[bytes]:
    """What the bytes of a compressed file stand for, a megabyte or less at a time.

    Args:
        chunks: the file's bytes.
        suffix: one of `COMPRESSIONS`.
        label: the file, for messages.

    Raises:
        DataError: for bytes that are damaged or end too early.
        ConfigError: where the library for it is not installed.
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
    """What reads one compressed stream, as the standard library's classes do."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def _output(stream: _Stream, chunk: bytes) -> Iterator[bytes]:
    """All that a stream makes of one more chunk."""
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
    """What makes a reader for one stream, and the exception that it raises for wrong bytes."""
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
