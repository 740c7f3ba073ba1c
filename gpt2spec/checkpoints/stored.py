"""This module describes arrays in files, which are read only when they are needed.

Files are read tensor by tensor and not mapped as a whole: if a mapped file is truncated, the process is killed, and its
pages count as memory of the process.
"""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt2spec.errors import CheckpointError

ITEM_SIZES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
"""The dtypes that checkpoints may have, and the bytes of one value of each."""


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turn errors of reading `path`, a file or a folder with files, into a `CheckpointError`."""
    try:
        yield
    except OSError as error:  # it may name a file in the folder `path`
        raise CheckpointError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


@dataclass(frozen=True)
class StoredArray:
    """Little-endian values in row-major order, from byte `offset` of a file on."""

    path: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The number of bytes in the file."""
        return self.size * ITEM_SIZES[self.dtype]

    def read(self) -> np.ndarray:
        """Read the values [*shape]; float64 stays, narrower dtypes become float32. Too few are a `CheckpointError`."""
        with read_errors(self.path):
            raw = np.fromfile(self.path, np.uint8, self.nbytes, offset=self.offset)
        if raw.size != self.nbytes:
            raise CheckpointError(f"{self.path} ends early: {raw.size} bytes of {self.nbytes} at {self.offset}")
        return decoded(raw, self.dtype).reshape(self.shape)


def decoded(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Decode bytes [n]; float64 stays, narrower dtypes become float32."""
    if dtype == "bfloat16":  # the upper half of a float32
        return (raw.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype == "float16":
        return raw.view("<f2").astype(np.float32)
    return raw.view("<f4" if dtype == "float32" else "<f8")


def encoded(values: np.ndarray, dtype: str) -> np.ndarray:
    """Encode values for storage: `<f4`, `<f8`, or `<u2` with the bits of bfloat16, rounded to nearest even."""
    if dtype != "bfloat16":
        return np.ascontiguousarray(values, "<f4" if dtype == "float32" else "<f8")
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    upper = bits >> np.uint32(16)
    rounded = (bits + (np.uint32(0x7FFF) + (upper & np.uint32(1)))) >> np.uint32(16)
    return np.where(np.isnan(values), upper | np.uint32(0x40), rounded).astype("<u2")


def sha256_of_values(values: np.ndarray) -> str:
    """SHA-256 of the little-endian values in row-major order, in hexadecimal."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return hashlib.sha256(little.reshape(-1).view(np.uint8).data).hexdigest()
