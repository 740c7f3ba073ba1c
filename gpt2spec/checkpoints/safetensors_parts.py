"""Tensors in parts, in several safetensors files, as PyTorch's processes write them (`torch.distributed.checkpoint`).

A file has a part of each tensor; where in the whole one it begins stands in the file's metadata.
"""

import json
from pathlib import Path

import numpy as np

from gpt2spec.backend import StoredTensor
from gpt2spec.checkpoints.safetensors_file import open_safetensors
from gpt2spec.checkpoints.stored import StoredArray, read_errors
from gpt2spec.errors import CheckpointError

PLACES, OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"
"""The metadata, and in it the indices of a part's first value."""

Part = tuple[tuple[slice, ...], StoredArray]


def open_parts(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of all files in `folder`; a `CheckpointError` where parts of one are missing."""
    found: dict[str, list[Part]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        file = open_safetensors(path)
        with read_errors(path):
            places = json.loads(file.metadata.get(PLACES, "{}"))
        for name, part in file.tensors.items():
            found.setdefault(name, []).append((_place(path, name, places, part.shape), part))
    return {name: _whole(folder, name, parts) for name, parts in found.items()}


def _place(path: Path, name: str, places: object, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Where a part stands in its tensor."""
    try:
        offsets = places[name][OFFSETS]  # type: ignore[index]
        return tuple(slice(offset, offset + size) for offset, size in zip(offsets, shape, strict=True))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not say of which part of {name!r} it has the values") from error


def _whole(folder: Path, name: str, parts: list[Part]) -> StoredTensor:
    shape = tuple(max(place.stop for place in axis) for axis in zip(*(places for places, _ in parts), strict=True))
    dtype, *others = {part.dtype for _, part in parts}
    if sum(part.size for _, part in parts) != np.prod(shape, dtype=np.int64) or others:
        raise CheckpointError(f"{folder}: parts of the weight {name!r} are missing or do not fit together")

    def read() -> np.ndarray:
        values = np.zeros(shape, np.float64 if dtype == "float64" else np.float32)
        for place, part in parts:
            values[place] = part.read()
        return values

    return StoredTensor(shape, dtype, read)
