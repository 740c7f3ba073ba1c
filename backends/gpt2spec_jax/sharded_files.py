"""Sharded arrays on disk, by Orbax: each process writes and reads what its devices hold.

Orbax's handlers are used by themselves: its checkpointers wait for all processes, and a failure of one would let the
others wait for ever. Compression is off, since it does not make weights smaller.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import NamedSharding

from gpt2spec.errors import BackendError
from gpt2spec.ops import NativeTensor as Tensor
from gpt2spec.sharding import StoredTensor


def orbax() -> Any:
    """The library, or a `BackendError` that says how to get it."""
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise BackendError(
            "JAX's checkpoints in parts are written and read by Orbax, which is not installed: pip install "
            '"gpt2spec[orbax]". Where it is, gpt2spec convert makes a checkpoint of any format from them; '
            "--checkpoint-format whole trains without"
        ) from error
    return orbax.checkpoint


def write(arrays: Mapping[str, Tensor], folder: Path) -> None:
    """Write what this process has of each array. When all have, one of them has to `complete` it."""
    ocp = orbax()
    with system_errors(), failures(f"cannot write {folder}"):
        _handler().save(_path(folder), args=ocp.args.PyTreeSave(dict(arrays)))


def complete(folder: Path) -> None:
    """Join what the processes have written: their indices, not the values."""
    with system_errors(), failures(f"cannot write {folder}"):
        _handler().finalize(_path(folder))


def read(folder: Path, wanted: Mapping[str, tuple[tuple[int, ...], NamedSharding]], dtype: str) -> dict[str, Tensor]:
    """The arrays of these names, shapes and layouts."""
    ocp = orbax()
    args = {
        name: ocp.ArrayRestoreArgs(sharding=layout, global_shape=shape, dtype=np.dtype(dtype))
        for name, (shape, layout) in wanted.items()
    }
    with failures(f"cannot read {folder}"):
        return _handler().restore(_path(folder), args=ocp.args.PyTreeRestore(item=args, restore_args=args))


def open_sharded(folder: Path) -> dict[str, StoredTensor]:
    """The arrays in a folder, each read whole, on the host, when that is asked for."""
    ocp = orbax()

    def whole(name: str) -> np.ndarray:
        args = {name: ocp.RestoreArgs(restore_type=np.ndarray)}
        wanted = ocp.args.PyTreeRestore(item=args, restore_args=args, partial_restore=True)
        with failures(f"cannot read {folder}"):
            return np.asarray(_handler().restore(_path(folder), args=wanted)[name])

    with failures(f"cannot read {folder}"):
        stored = _handler().metadata(_path(folder)).tree
    return {
        name: StoredTensor(tuple(array.shape), str(np.dtype(array.dtype)), partial(whole, name))
        for name, array in stored.items()
    }


@contextmanager
def failures(what: str) -> Iterator[None]:
    """Orbax and TensorStore raise and log many things, with tracebacks: users see one message, which is ours."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    except Exception as error:
        raise BackendError(f"Orbax {what}: {' '.join(str(error).split())[:500]}") from error
    finally:
        log.setLevel(level)


@contextmanager
def system_errors() -> Iterator[None]:
    """A full disk and the like as Python has it: the system's number of an error stands in TensorStore's text."""
    try:
        yield
    except BackendError as error:
        if found := re.search(r"os_error_code='(\d+)'", str(error.__cause__)):
            raise OSError(int(found[1]), os.strerror(int(found[1]))) from error
        raise


def _handler() -> Any:
    return orbax().PyTreeCheckpointHandler(use_compression=False)


def _path(folder: Path) -> Any:
    from etils import epath

    return epath.Path(folder.absolute())
