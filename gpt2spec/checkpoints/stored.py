"""Values in a file: where they stand, in which dtype, and read only when they are asked for.

Files are read tensor by tensor and not mapped as a whole: a mapped file that is cut off meanwhile kills the
process, and its pages count as the process's memory.
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
"""The dtypes that checkpoints may have, and their bytes a value."""


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turn what reading `path`, a file or a folder with files, may raise into a `CheckpointError`."""
    try:
        yield
    except OSError as error:  # which may name a file in the folder `path`
        raise CheckpointError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


@dataclass(frozen=True)
class StoredArray:
    """Little-endian values in row-major order at `offset` of a file."""

    path: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.size * ITEM_SIZES[self.dtype]

    def read(self) -> np.ndarray:
        """The values [*shape]: float64 as such, anything narrower as float32. Too few are a `CheckpointError`."""
        with read_errors(self.path):
            raw = np.fromfile(self.path, np.uint8, self.nbytes, offset=self.offset)
        if raw.size != self.nbytes:
            raise CheckpointError(f"{self.path} ends early: {raw.size} bytes of {self.nbytes} at {self.offset}")
        return decoded(raw, self.dtype).reshape(self.shape)


def decoded(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Bytes [n] as values: float64 as such, anything narrower as float32."""
    if dtype == "bfloat16":  # the upper half of a float32
        return (raw.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype == "float16":
        return raw.view("<f2").astype(np.float32)
    return raw.view("<f4" if dtype == "float32" else "<f8")


def encoded(values: np.ndarray, dtype: str) -> np.ndarray:
    """Values as they are stored: `<f4`, `<f8`, or the bits of bfloat16, rounded to nearest even, as `<u2`."""
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
