"""The JAX backend compiles functions by XLA, and donates the state's memory."""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt2spec.backend import Backend, Capabilities
from gpt2spec.ops import NativeKey as Key
from gpt2spec.ops import NativeTensor as Tensor
from gpt2spec.ops import TensorOps
from gpt2spec.options import check_dtype
from gpt2spec_jax.ops import JaxOps


class JaxBackend(Backend):
    """JAX on one device; blocks are stacked."""

    name = "jax"

    def __init__(self, device: jax.Device, dtype: str, remat: bool, compile: bool) -> None:
        self.capabilities = Capabilities(
            dtypes=("float32", "bfloat16", "float64"),
            compiled=compile,
            in_place=compile,
            asynchronous=device.platform != "cpu",
        )
        check_dtype(self.name, dtype, self.capabilities)
        self.compile = compile
        self.device = f"{device.platform}:{device.id}"
        self.ops: JaxOps = (Float64JaxOps if dtype == "float64" else JaxOps)(dtype, device, remat)

    def value_and_grad(self, function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Any]]:
        """Differentiate in reverse mode by JAX."""
        return self._in_precision(jax.value_and_grad(function))

    def jit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Make one XLA program per shape, unless `compile` is off."""
        return self._in_precision(jax.jit(function) if self.compile else function)

    def jit_update(self, function: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
        """Make one XLA program per shape; the new state takes the memory of the old one."""
        return self._in_precision(jax.jit(function, donate_argnums=0) if self.compile else function)

    def dropout_key(self, seed: int, step: int) -> Key:
        """Make a JAX key whose bits are a hash of both numbers."""
        digest = hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=8).digest()
        data = jax.device_put(np.frombuffer(digest, np.uint32), self.ops.device)
        return jax.random.wrap_key_data(data, impl="threefry2x32")

    def to_numpy(self, x: Tensor) -> np.ndarray:
        """Copy the tensor to the host."""
        return np.array(x, np.float32 if x.dtype == jnp.bfloat16 else x.dtype)

    def peak_memory(self) -> int | None:
        """The peak of XLA's allocator; it does not count on a CPU."""
        return (self.ops.device.memory_stats() or {}).get("peak_bytes_in_use")

    @contextlib.contextmanager
    def profile(self, folder: Path) -> Iterator[None]:
        """Run JAX's profiler, which writes for TensorBoard and XProf, and a trace.json.gz for Perfetto."""
        jax.profiler.start_trace(str(folder))
        try:
            yield
            self.synchronize()
        finally:
            try:
                jax.profiler.stop_trace()  # type: ignore[no-untyped-call]
            except jax.errors.JaxRuntimeError as error:
                raise OSError(str(error)) from error

    def synchronize(self) -> None:
        """Wait until a computation that is queued behind all others has finished."""
        (jax.device_put(np.zeros((), np.float32), self.ops.device) + 0).block_until_ready()

    def _in_precision(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return in_float64(function) if self.dtype == "float64" else function


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run the function while JAX allows 64-bit numbers, which stay off elsewhere in the process."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with jax.enable_x64(True):
            return function(*args, **kwargs)

    return run


class Float64JaxOps(JaxOps):
    """Operations that run in 64-bit mode. JAX warns of operators on tensors outside `jit`, which do not."""


for _name in dir(TensorOps):
    if not _name.startswith("_"):
        setattr(Float64JaxOps, _name, in_float64(getattr(JaxOps, _name)))
