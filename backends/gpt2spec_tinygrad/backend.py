"""The tinygrad backend: each step is captured once as a list of kernels, and replayed."""

import contextlib
import hashlib
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tinygrad.device import Buffer, Compiled, Device
from tinygrad.dtype import dtypes
from tinygrad.helpers import DEV, Context, cpu_events

from gpt2spec.backend import Backend, Capabilities
from gpt2spec.errors import BackendError
from gpt2spec.ops import NativeKey as Key
from gpt2spec.ops import NativeTensor as Tensor
from gpt2spec.options import check_dtype, check_flag
from gpt2spec.tree import tree_leaves, tree_unflatten
from gpt2spec_tinygrad import clang
from gpt2spec_tinygrad.ops import TinygradOps
from gpt2spec_tinygrad.program import compiled

DEVICES = ("METAL", "AMD", "NV", "CUDA", "QCOM", "CL", "CPU", "WEBGPU")
"""Devices of tinygrad, in the order in which it would choose."""


class TinygradBackend(Backend):
    """tinygrad on one device; blocks are a list of layers."""

    name = "tinygrad"

    def __init__(self, device: str, dtype: str, compile: bool) -> None:
        wide = device.split(":")[0] in ("CPU", "CUDA", "NV", "AMD")
        names = ("float32", "bfloat16", "float64") if wide else ("float32",)
        self.capabilities = Capabilities(
            dtypes=names, compiled=compile, in_place=compile, asynchronous=device.split(":")[0] != "CPU"
        )
        check_dtype(self.name, dtype, self.capabilities)
        self.device = device
        self.compile = compile
        self.ops: TinygradOps = TinygradOps(dtype, device)

    def value_and_grad(self, function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Any]]:
        """Reverse mode by tinygrad, lazy like everything in it."""

        def evaluate(tree: Any, *args: Any) -> tuple[Tensor, Any]:
            value = function(tree, *args)
            return value, tree_unflatten(tree, value.gradient(*tree_leaves(tree)))

        return evaluate

    def jit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """One TinyJit per shape, unless `compile` is off."""
        return compiled(function, updates=False) if self.compile else function

    def jit_update(self, function: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
        """One TinyJit per shape, which assigns the new state to the buffers of the old one."""

        def update(*args: Any) -> tuple[Any, Any]:
            self.ops.in_place = True
            try:
                return function(*args)
            finally:
                self.ops.in_place = False

        return compiled(update, updates=True) if self.compile else function

    def dropout_key(self, seed: int, step: int) -> Key:
        """Two words for Threefry: a hash of both numbers."""
        digest = hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=8).digest()
        return self.ops.asarray(np.frombuffer(digest, np.uint32), "uint32")

    def to_numpy(self, x: Tensor) -> np.ndarray:
        """A copy on the host."""
        return np.array((x.cast(dtypes.float32) if x.dtype == dtypes.bfloat16 else x).numpy())

    @contextlib.contextmanager
    def profile(self, folder: Path) -> Iterator[None]:
        """tinygrad's events, pickled as it does; `python -m tinygrad.viz.serve --profile-path FILE` shows them."""
        with Context(PROFILE=1):  # type: ignore[no-untyped-call]
            yield
            self.synchronize()
            for name in Device._opened_devices:
                Device[name]._at_profile_finalize()  # type: ignore[no-untyped-call]
        with (folder / "profile.pkl").open("wb") as file:
            pickle.dump(cpu_events + Compiled.profile_events + _begun(Buffer.profile_events), file)

    def synchronize(self) -> None:
        """Wait for the device."""
        Device[self.device].synchronize()  # type: ignore[no-untyped-call]


def create(
    device: str | None = None,
    dtype: str = "float32",
    compile: bool | str = True,
    parallel: str | None = None,
    devices: int | str | None = None,
) -> TinygradBackend:
    """Make the backend on a device in tinygrad's words ("CPU", "CUDA", "METAL:1"); the default is its own.

    With `parallel` "data", rows of a batch are divided among the first so many `devices` of its kind.
    """
    compile = check_flag("tinygrad", "compile", compile)
    if device is None and not DEV.device:  # DEV is the variable by which tinygrad is told a device
        device = [*_accelerators(), "CPU"][0]
    name = Device.canonicalize(device)
    if name == "CPU":
        clang.provide()
    if not _works(name):
        known = ", ".join([*_accelerators(), "CPU"])
        raise BackendError(f"tinygrad has no device {device!r} here; there is {known}")
    if parallel is None and devices is None:
        return TinygradBackend(name, dtype, compile)
    from gpt2spec_tinygrad.several import SeveralDevicesBackend

    return SeveralDevicesBackend(_several(name, parallel, devices), dtype, compile)


def _several(name: str, parallel: str | None, devices: int | str | None) -> list[str]:
    """The first so many devices of a kind."""
    if parallel != "data":
        raise BackendError(f"backend 'tinygrad' runs in parallel as data, not as {parallel!r}")
    if not str(devices).isdigit() or int(str(devices)) < 2:
        raise BackendError(
            "how many devices share the work is not known: give --backend-option devices=N, at least 2, "
            f"not {devices!r}"
        )
    kind = name.split(":")[0]
    names = [kind if i == 0 else f"{kind}:{i}" for i in range(int(str(devices)))]
    if missing := [each for each in names if not _works(each)]:
        raise BackendError(f"tinygrad has no device {missing[0]!r} here")
    return names


def _begun(events: list[Any]) -> list[Any]:
    """What happened to buffers, without the end of those that were there before: the viewer fails over it."""
    there: set[int] = set()
    kept = []
    for event in events:
        if event.name == "alloc":
            there.add(event.key)
        elif event.name == "free" and event.key not in there:
            continue
        elif event.name == "free":
            there.remove(event.key)
        kept.append(event)
    return kept


def _accelerators() -> list[str]:
    return [name for name in DEVICES if name != "CPU" and _works(name)]


def _works(device: str) -> bool:
    """Whether tinygrad can open the device: it has no other way to tell."""
    kind, _, number = device.partition(":")
    if kind not in DEVICES or not (number or "0").isdigit():
        return False
    try:
        Device[device]
    except Exception:
        return False
    return True
