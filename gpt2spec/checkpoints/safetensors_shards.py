"""Sharded tensors in several safetensors files, as PyTorch's processes write them (`torch.distributed.checkpoint`).

A file has a shard of each tensor; its metadata says where in the whole tensor the shard begins.
"""

import json
from pathlib import Path

import numpy as np

from gpt2spec.checkpoints.safetensors_file import open_safetensors
from gpt2spec.checkpoints.stored import StoredArray, read_errors
from gpt2spec.errors import CheckpointError
from gpt2spec.sharding import StoredTensor

PLACES, OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"
"""The key of the metadata that has the indices of a shard's first value."""

Shard = tuple[tuple[slice, ...], StoredArray]


def open_sharded(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of all files in `folder`; a `CheckpointError` where shards of one are missing."""
    found: dict[str, list[Shard]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        file = open_safetensors(path)
        with read_errors(path):
            places = json.loads(file.metadata.get(PLACES, "{}"))
        for name, values in file.tensors.items():
            found.setdefault(name, []).append((_place(path, name, places, values.shape), values))
    return {name: _whole(folder, name, shards) for name, shards in found.items()}


def _place(path: Path, name: str, places: object, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The place of a shard in its tensor."""
    try:
        offsets = places[name][OFFSETS]  # type: ignore[index]
        return tuple(slice(offset, offset + size) for offset, size in zip(offsets, shape, strict=True))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not say of which part of {name!r} it has the values") from error


def _whole(folder: Path, name: str, shards: list[Shard]) -> StoredTensor:
    shape = tuple(max(place.stop for place in axis) for axis in zip(*(places for places, _ in shards), strict=True))
    dtype, *others = {values.dtype for _, values in shards}
    if sum(values.size for _, values in shards) != np.prod(shape, dtype=np.int64) or others:
        raise CheckpointError(f"{folder}: parts of the weight {name!r} are missing or do not fit together")

    def read() -> np.ndarray:
        whole = np.zeros(shape, np.float64 if dtype == "float64" else np.float32)
        for place, values in shards:
            whole[place] = values.read()
        return whole

    return StoredTensor(shape, dtype, read)
