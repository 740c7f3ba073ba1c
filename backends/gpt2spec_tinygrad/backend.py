"""The tinygrad backend captures each step once as a list of kernels, and replays it."""

import contextlib
import hashlib
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tinygrad.device import Buffer, Compiled, Device
from tinygrad.dtype import dtypes
from tinygrad.helpers import Context, cpu_events

from gpt2spec.backend import Backend, Capabilities
from gpt2spec.ops import NativeKey as Key
from gpt2spec.ops import NativeTensor as Tensor
from gpt2spec.options import check_dtype
from gpt2spec.tree import tree_leaves, tree_unflatten
from gpt2spec_tinygrad.ops import TinygradOps
from gpt2spec_tinygrad.program import compiled


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
        """Differentiate in reverse mode by tinygrad, which is lazy like everything in it."""

        def evaluate(tree: Any, *args: Any) -> tuple[Tensor, Any]:
            value = function(tree, *args)
            return value, tree_unflatten(tree, value.gradient(*tree_leaves(tree)))

        return evaluate

    def jit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Make one TinyJit per shape, unless `compile` is off."""
        return compiled(function, updates=False) if self.compile else function

    def jit_update(self, function: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
        """Make one TinyJit per shape, which assigns the new state to the buffers of the old one."""

        def update(*args: Any) -> tuple[Any, Any]:
            self.ops.in_place = True
            try:
                return function(*args)
            finally:
                self.ops.in_place = False

        return compiled(update, updates=True) if self.compile else function

    def dropout_key(self, seed: int, step: int) -> Key:
        """Make two words for Threefry, which are a hash of both numbers."""
        digest = hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=8).digest()
        return self.ops.asarray(np.frombuffer(digest, np.uint32), "uint32")

    def to_numpy(self, x: Tensor) -> np.ndarray:
        """Copy the tensor to the host."""
        return np.array((x.cast(dtypes.float32) if x.dtype == dtypes.bfloat16 else x).numpy())

    @contextlib.contextmanager
    def profile(self, folder: Path) -> Iterator[None]:
        """Pickle tinygrad's events as it does; `python -m tinygrad.viz.serve --profile-path FILE` shows them."""
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


def _begun(events: list[Any]) -> list[Any]:
    """The events of buffers, without the ends of older buffers, on which the viewer fails."""
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
