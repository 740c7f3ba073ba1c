"""This module reads files of `torch.save` with PyTorch and `weights_only=True`, and writes them tensor by tensor.

Such a file is a pickle, and reading a pickle can run any program. `weights_only=True` builds nothing but tensors and
plain containers; no option here turns it off. This is the only module of the package that imports torch.
"""

import io
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from gpt2spec.checkpoints.reader import Entry
from gpt2spec.checkpoints.stored import encoded, read_errors
from gpt2spec.errors import BackendError, CheckpointError

KEPT_MAPPED = 16 * 2**20
"""After so many bytes have been read through a memory map, it is made anew, which frees its pages."""
ZIP = b"PK\x03\x04"
"""The first bytes of files of `torch.save` since PyTorch 1.6."""
_ALIGNMENT = 64
_PROTOCOL = 2  # the pickle protocol of torch.save, and the only one that weights_only reads
_ZIP_HEADER, _ZIP64_EXTRA, _EXTRA_HEADER = 30, 20, 4  # bytes


def torch_module() -> ModuleType:
    """PyTorch, or a `BackendError` that says how to get it."""
    try:
        import torch
    except ImportError as error:
        raise BackendError("PyTorch's files need PyTorch: pip install 'gpt2spec[torch]'") from error
    return torch


class TorchFile:
    """The contents of a file, whose tensors are mapped and not read."""

    def __init__(self, path: Path) -> None:
        """Load `path`: a zip archive, whose checksums are verified, or an older file, which is read whole."""
        self.path = path
        with read_errors(path), path.open("rb") as file:
            self.is_zip = file.read(len(ZIP)) == ZIP  # PyTorch decides by this, too
        if self.is_zip:
            check_archive(path)
        self.contents = self._load()
        self._read = 0

    def entry(self, name: str, keys: tuple[str, ...], transposed: bool = False) -> Entry:
        """The tensor at `contents[keys[0]][keys[1]]…`, which the file calls `name`."""
        tensor = self._at(keys)
        torch = torch_module()
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
            raise CheckpointError(f"{self.path}: {name!r} is no tensor but {type(tensor).__name__}")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{self.path}: the tensor {name!r} has fewer values than its shape says")
        dtype = str(tensor.dtype).removeprefix("torch.")
        return Entry(name, tuple(tensor.shape), dtype, lambda: self.read(keys), transposed)

    def read(self, keys: tuple[str, ...]) -> np.ndarray:
        """Read the values of a tensor; float64 stays, narrower dtypes become float32."""
        torch = torch_module()
        tensor = self._at(keys)
        self._read += tensor.numel() * tensor.element_size()
        if self.is_zip and self._read > KEPT_MAPPED:
            del tensor
            self.contents, self._read = self._load(), 0
            tensor = self._at(keys)
        wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
        return tensor.detach().to(wide, copy=True).contiguous().numpy()

    def _at(self, keys: tuple[str, ...]) -> Any:
        found = self.contents
        for key in keys:
            found = found[key]
        return found

    def _load(self) -> Any:
        torch = torch_module()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # its warnings about old pickles are of no use to our users
                return torch.load(self.path, map_location="cpu", mmap=self.is_zip or None, weights_only=True)
        except pickle.UnpicklingError as error:
            reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0].partition(". ")[0]
            raise CheckpointError(
                f"{self.path} is refused: it is no file of weights alone, and nothing else in it is ever run "
                f"({reason[:200]})"
            ) from error
        except Exception as error:  # a damaged pickle can make torch raise anything
            reason = str(error).partition("\n")[0][:200]
            raise CheckpointError(f"{self.path} cannot be read: {type(error).__name__}: {reason}") from error


def check_archive(path: Path) -> None:
    """Raise unless every member of a zip archive is uncompressed, so that it can be mapped, and has its checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [each.filename for each in archive.infolist() if each.compress_type != zipfile.ZIP_STORED]
            damaged = None if packed else archive.testzip()
    except Exception as error:  # a damaged directory can make zipfile raise anything
        raise CheckpointError(f"{path} is damaged: {str(error)[:200]!r}") from error
    if packed:
        raise CheckpointError(f"{path} is refused: {packed[0][:80]!r} in it is compressed, which PyTorch does not do")
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged: {damaged[:80]!r} in it does not match its checksum")


class Placeholder(NamedTuple):
    """A tensor in the pickle; its values follow in the archive, in the member `data/KEY`."""

    key: str
    shape: tuple[int, ...]


def write_torch(file: BinaryIO, contents: Any, tensors: Iterable[tuple[str, np.ndarray]], dtype: str) -> None:
    """Write a file that `torch.load` reads as `contents`, with a tensor for every `Placeholder`.

    `tensors` are the values of each key. Placeholders with the same key become tensors that share their values.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "data.pkl", _pickled(contents, dtype))
        _add(archive, "byteorder", b"little")
        for key, values in tensors:
            _add(archive, f"data/{key}", encoded(values, dtype).reshape(-1).view(np.uint8).data)
        _add(archive, "version", b"3\n")


def _pickled(contents: Any, dtype: str) -> bytes:
    torch = torch_module()
    kind = {"float32": torch.FloatStorage, "bfloat16": torch.BFloat16Storage, "float64": torch.DoubleStorage}[dtype]

    class Values(NamedTuple):
        key: str
        numbers: int

    class Pickler(pickle.Pickler):
        """Writes placeholders as torch.save writes tensors."""

        def persistent_id(self, value: Any) -> Any:
            """The reference to the values, as torch.save writes it."""
            return ("storage", kind, value.key, "cpu", value.numbers) if isinstance(value, Values) else None

        def reducer_override(self, value: Any) -> Any:
            """The call that makes a tensor from a placeholder: values, offset, shape, strides, gradient, hooks."""
            if not isinstance(value, Placeholder):
                return NotImplemented
            strides = tuple(int(np.prod(value.shape[i + 1 :], dtype=np.int64)) for i in range(len(value.shape)))
            values = Values(value.key, int(np.prod(value.shape, dtype=np.int64)))
            return torch._utils._rebuild_tensor_v2, (values, 0, value.shape, strides, False, OrderedDict())

    buffer = io.BytesIO()
    Pickler(buffer, _PROTOCOL).dump(contents)
    return buffer.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: Any) -> None:
    """Add a member whose data begins at a multiple of 64 bytes, so that it can be mapped."""
    info = zipfile.ZipInfo(f"archive/{name}")
    assert archive.fp is not None
    start = archive.fp.tell() + _ZIP_HEADER + len(info.filename) + _ZIP64_EXTRA + _EXTRA_HEADER
    padding = -start % _ALIGNMENT
    info.extra = b"FB" + padding.to_bytes(2, "little") + bytes(padding)
    with archive.open(info, "w", force_zip64=True) as member:
        member.write(data)
