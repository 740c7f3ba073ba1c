"""This module reads TensorFlow's checkpoints, `NAME.index` and `NAME.data-*`, without TensorFlow.

The index is a table in LevelDB's format: blocks of sorted keys and values, a last block that says where the others are,
and a footer that says where the last block is. The empty key has a header, and the name of each tensor has the place of
its bytes; both values are protocol buffers. Blocks and tensors have masked CRC-32C checksums. Those of the index are
verified when it is opened, and that of a tensor when it is read.

Sources: `tensorflow/core/util/tensor_bundle`, `tensorflow/core/lib/io/table_format.txt`,
`tensorflow/core/protobuf/tensor_bundle.proto`.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np

from gpt2spec.checkpoints.stored import StoredArray, read_errors
from gpt2spec.errors import CheckpointError

MAGIC = 0xDB4775248B80FB57
_FOOTER, _TRAILER = 48, 5
_UNCOMPRESSED = 0
_DTYPES = {1: "float32", 2: "float64", 14: "bfloat16", 19: "float16"}  # tensorflow/core/framework/types.proto
_PIECE = 16 * 2**20
_MASK = 0xA282EAD8
Message = dict[int, list[int | bytes]]
"""The fields of a protocol buffer by their numbers; nested messages are bytes."""


@dataclass(frozen=True)
class BundleTensor(StoredArray):
    """A tensor of a bundle, with its name and the checksum of its bytes."""

    name: str
    checksum: int

    def read(self) -> np.ndarray:
        """Read the values; a `CheckpointError` where they do not match their checksum."""
        crc = 0
        with read_errors(self.path), self.path.open("rb") as file:
            file.seek(self.offset)
            for begin in range(0, self.nbytes, _PIECE):
                crc = google_crc32c.extend(crc, file.read(min(_PIECE, self.nbytes - begin)))
        if masked(crc) != self.checksum:
            raise CheckpointError(f"{self.path} is damaged: the tensor {self.name!r} does not match its checksum")
        return super().read()


def masked(crc: int) -> int:
    """The form in which LevelDB stores a CRC: rotated by 15 bits, plus a constant."""
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def open_bundle(index: Path) -> dict[str, BundleTensor]:
    """The tensors of the bundle with this `.index` file, by name."""
    with read_errors(index):
        table = index.read_bytes()
    try:
        entries = dict(_table(table, index))
        header = _message(entries.pop(b"", b""))
    except (IndexError, ValueError, struct.error) as error:
        raise CheckpointError(f"{index} is damaged: {error}") from error
    shards = _number(header, 1)
    if _number(header, 2) != 0:
        raise CheckpointError(f"{index} is of a big-endian machine; little-endian is expected")
    return {key.decode(errors="replace"): _tensor(index, key, value, shards) for key, value in entries.items()}


def _tensor(index: Path, key: bytes, value: bytes, shards: int) -> BundleTensor:
    """Find a tensor by its BundleEntryProto."""
    name = key.decode(errors="replace")
    try:
        entry = _message(value)
        shape = tuple(_number(_message(dim), 1) for dim in _texts(_message(_texts(entry, 2)[0]), 2))
    except (IndexError, ValueError, struct.error) as error:
        raise CheckpointError(f"{index} is damaged: the entry of {name!r}: {error}") from error
    if 7 in entry:
        raise CheckpointError(f"{index} has {name!r} in slices, which GPT-2's checkpoints do not")
    dtype = _DTYPES.get(_number(entry, 1))
    if dtype is None:
        raise CheckpointError(f"{index} has {name!r} in TensorFlow's dtype {_number(entry, 1)}; {_DTYPES} can be read")
    data = index.with_name(f"{index.stem}.data-{_number(entry, 3):05d}-of-{shards:05d}")
    tensor = BundleTensor(data, _number(entry, 4), dtype, shape, name, _number(entry, 6))
    with read_errors(data):
        available = data.stat().st_size
    if tensor.nbytes != _number(entry, 5) or tensor.offset + tensor.nbytes > available:
        raise CheckpointError(
            f"{index} says of {name!r} {list(shape)} that it has {_number(entry, 5)} bytes at {tensor.offset} of "
            f"{data.name}, which has {available}"
        )
    return tensor


def _table(table: bytes, path: Path) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of all blocks."""
    footer = table[-_FOOTER:]
    if len(footer) < _FOOTER or int.from_bytes(footer[-8:], "little") != MAGIC:
        raise CheckpointError(f"{path} does not end as an index of TensorFlow's does: it is damaged or something else")
    at = 0
    for _ in range(2):  # the meta index, which is empty
        _, at = _varint(footer, at)
    begin, at = _varint(footer, at)
    size, _ = _varint(footer, at)
    for _, handle in _block(table, begin, size, path):
        begin, at = _varint(handle, 0)
        size, _ = _varint(handle, at)
        yield from _block(table, begin, size, path)


def _block(table: bytes, begin: int, size: int, path: Path) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of one block, in which a key omits the prefix that it shares with the one before."""
    block = table[begin : begin + size + _TRAILER]
    if len(block) != size + _TRAILER:
        raise CheckpointError(f"{path} is damaged: a block would end after the file does")
    if masked(google_crc32c.value(block[: size + 1])) != int.from_bytes(block[size + 1 :], "little"):
        raise CheckpointError(f"{path} is damaged: the block at {begin} does not match its checksum")
    if block[size] != _UNCOMPRESSED:
        raise CheckpointError(f"{path} is compressed, which TensorFlow does not do by itself; uncompressed is expected")
    (restarts,) = struct.unpack("<I", block[size - 4 : size])
    end = size - 4 * (restarts + 1)
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + own]
        at += own
        yield key, block[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a number in groups of seven bits, the lowest first. Returns it and the offset after it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number has more than 64 bits")


def _message(data: bytes) -> Message:
    """Parse a protocol buffer."""
    fields: Message = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        value: int | bytes
        if kind == 0:
            value, at = _varint(data, at)
        elif kind == 2:
            length, at = _varint(data, at)
            value, at = data[at : at + length], at + length
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
            value, at = int.from_bytes(data[at : at + length], "little"), at + length
        else:
            raise ValueError(f"a field of the unknown kind {kind}")
        if at > len(data):
            raise ValueError("a field ends after its message")
        fields.setdefault(number, []).append(value)
    return fields


def _number(message: Message, field: int) -> int:
    """The last number of a field; 0 where there is none, as is the rule for protocol buffers."""
    value = message.get(field, [0])[-1]
    if not isinstance(value, int):
        raise ValueError(f"field {field} is no number")
    return value


def _texts(message: Message, field: int) -> list[bytes]:
    return [value for value in message.get(field, []) if isinstance(value, bytes)]
