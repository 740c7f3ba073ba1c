"""This module reads and writes safetensors files one tensor at a time.

A file begins with the length of the header as a little-endian uint64. The header, in JSON, has the dtype, shape and
place of every tensor; their values follow without gaps (github.com/huggingface/safetensors). The `safetensors` package
checks a file. Our own code reads one tensor at a time, in any dtype, and writes without holding all tensors.
"""

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from gpt2spec.checkpoints.stored import ITEM_SIZES, StoredArray, encoded, read_errors
from gpt2spec.errors import CheckpointError
from gpt2spec.files import HashedFile
from gpt2spec.parameters import Weight

_DTYPES = {"F32": "float32", "F64": "float64", "BF16": "bfloat16", "F16": "float16"}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_ALIGNMENT = 8


@dataclass(frozen=True)
class SafetensorsFile:
    """The tensors of a file, and the metadata in its header."""

    tensors: dict[str, StoredArray]
    metadata: dict[str, str]


def open_safetensors(path: Path) -> SafetensorsFile:
    """Read and check the header of a file. A dtype that no weight has is named as in the file.

    Raises:
        CheckpointError: for a header too long or not JSON, a name that comes twice, and tensors that overlap,
            leave gaps, or do not fill the file.
    """
    try:
        # The file is opened first, because the package says of any file it cannot open that it does not exist.
        with read_errors(path), path.open("rb") as file, safe_open(path, "np"):
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length), object_pairs_hook=_without_repetition)
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error
    metadata = header.pop("__metadata__", None) or {}
    tensors = {
        name: StoredArray(
            path,
            8 + length + described["data_offsets"][0],
            _DTYPES.get(described["dtype"], described["dtype"]),
            tuple(described["shape"]),
        )
        for name, described in header.items()
    }
    return SafetensorsFile(tensors, metadata)


def write_safetensors(
    file: BinaryIO,
    table: Iterable[Weight],
    tensors: Iterable[tuple[str, np.ndarray]],
    dtype: str,
    metadata: dict[str, str],
) -> str:
    """Write `tensors`, which come in the order of `table`, in `dtype`. Returns the SHA-256 of the file."""
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for weight in table:
        begin, end = end, end + weight.size * ITEM_SIZES[dtype]
        header[weight.name] = {"dtype": _CODES[dtype], "shape": list(weight.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    hashed = HashedFile(file)
    hashed.write(struct.pack("<Q", len(text)) + text)
    for _, values in tensors:
        hashed.write(encoded(values, dtype).reshape(-1).data)
    return hashed.sha256.hexdigest()


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} comes twice in its header")
    return table
