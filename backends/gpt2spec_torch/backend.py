"""The PyTorch backend computes eagerly, or compiles its blocks, or a whole step as one graph."""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch._dynamo

from gpt2spec.backend import Backend, Capabilities
from gpt2spec.errors import BackendError
from gpt2spec.ops import NativeKey as Key
from gpt2spec.ops import NativeTensor as Tensor
from gpt2spec.options import check_dtype
from gpt2spec.tree import named_leaves, tree_leaves, tree_unflatten
from gpt2spec_torch.decoding.few_rows import FewRowsTable, FewRowsWeight
from gpt2spec_torch.decoding.graphs import RecordedStep, cuda_graph
from gpt2spec_torch.decoding.row_block import RowBlocks, worth_a_program
from gpt2spec_torch.decoding.row_kernel import row_kernel
from gpt2spec_torch.ops import TorchOps

Compile = Literal["blocks", "step", "off"]
COMPILE_SETTINGS = {
    "trace_autograd_ops": True,  # gradients are part of the graph
    "optimize_ddp": False,  # which splits graphs where gradients are sent: blocks are small enough
    "recompile_limit": 256,  # a program per shape and bucket is what is meant
    "accumulated_recompile_limit": 4096,
}


class TorchBackend(Backend):
    """PyTorch on one device; blocks are a list of layers."""

    name = "torch"

    def __init__(self, device: torch.device, dtype: str, compile: Compile, int8: bool) -> None:
        dtypes = ("float32", "bfloat16") if device.type == "mps" else ("float32", "bfloat16", "float64")
        self.capabilities = Capabilities(
            dtypes=dtypes,
            compiled=compile != "off",
            in_place=True,
            asynchronous=device.type != "cpu",
            decoding_weights="int8" if int8 else None,
        )
        check_dtype(self.name, dtype, self.capabilities)
        if int8 and (device.type != "cpu" or compile == "step" or dtype == "float64"):
            raise BackendError(
                "option 'int8' of backend 'torch' is for CPUs, below float64 and without compile=step; "
                f"not for {device.type} in {dtype} with compile={compile}"
            )
        self.device = str(device)
        self.compile = compile
        self.int8 = int8
        self.ops: TorchOps = TorchOps(dtype, device)

    def value_and_grad(self, function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Any]]:
        """Differentiate in reverse mode by autograd."""

        def evaluate(tree: Any, *args: Any) -> tuple[Tensor, Any]:
            with torch.enable_grad():
                roots = [leaf.detach().requires_grad_() for leaf in tree_leaves(tree)]
                value = function(tree_unflatten(tree, roots), *args)
                gradients = torch.autograd.grad(value, roots, allow_unused=True, materialize_grads=True)
            return value.detach(), tree_unflatten(tree, list(gradients))

        return seeded(evaluate)

    def jit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compile the function per shape, unless `compile` is off."""
        return self._compile(function, in_place=False)

    def jit_update(self, function: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
        """Write the new state into the tensors of the old one, and return those."""

        def update(state: Any, *args: Any) -> Any:
            new, aux = function(state, *args)
            _overwrite(tree_leaves(state), tree_leaves(new))
            return aux

        compiled = self._compile(update, in_place=True)

        def run(state: Any, *args: Any) -> tuple[Any, Any]:
            aux = compiled(state, *args)
            return state, aux

        return run

    def jit_step(self, function: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
        """Record a step as one graph on CUDA; see `decoding`."""
        update = self.jit_update(function)
        return RecordedStep(update, cuda_graph) if self.ops.device.type == "cuda" else update

    def _compile(self, function: Callable[..., Any], in_place: bool) -> Callable[..., Any]:
        ops = self.ops

        def call(*args: Any) -> Any:
            with torch.no_grad():
                return function(*args)

        program = torch.compile(call, fullgraph=True, dynamic=False) if self.compile == "step" else call

        def run(*args: Any) -> Any:
            ops.in_place, ops.compile_blocks = in_place, self.compile == "blocks"
            try:
                with torch._dynamo.config.patch(COMPILE_SETTINGS):
                    return program(*args)
            finally:
                ops.in_place = ops.compile_blocks = False

        return seeded(run)

    def decoding_params(self, params: Any) -> Any:
        """Give weights a layout for few rows, on a CPU, below float64 and without `compile=step`; see `decoding`."""
        params = super().decoding_params(params)
        if self.device != "cpu" or self.dtype == "float64" or self.compile == "step":
            return params
        dtype = getattr(torch, self.dtype)
        kernel = row_kernel(dtype, torch.int8 if self.int8 else dtype) if self.compile != "off" else None

        def laid_out(path: tuple[str, ...], x: Tensor) -> Any:
            if path == ("wte", "weight"):
                return FewRowsTable(x, kernel, self.int8)
            return FewRowsWeight(x, kernel, self.int8) if path[0] == "blocks" and x.ndim == 2 else x

        params = tree_unflatten(params, [laid_out(path, x) for path, x in named_leaves(params)])
        if kernel is not None and worth_a_program(params["blocks"][0]):
            params["blocks"] = RowBlocks(params["blocks"])
        return params

    def dropout_key(self, seed: int, step: int) -> Key:
        """Seed a generator from both numbers. It advances, so that a key serves one step."""
        digest = hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=8).digest()
        return torch.Generator(self.ops.device).manual_seed(int.from_bytes(digest, "little") >> 1)

    def to_numpy(self, x: Tensor) -> np.ndarray:
        """Copy the tensor to the host."""
        x = x.detach()
        return x.to("cpu", torch.float32 if x.dtype == torch.bfloat16 else x.dtype, copy=True).numpy()

    def peak_memory(self) -> int | None:
        """The peak of PyTorch's allocator on the accelerator."""
        return torch.accelerator.max_memory_allocated(self.ops.device) if self.ops.device.type == "cuda" else None

    @contextlib.contextmanager
    def profile(self, folder: Path) -> Iterator[None]:
        """Run PyTorch's profiler, whose trace.json opens in Perfetto and chrome://tracing."""
        with torch.profiler.profile() as profiler:
            yield
            self.synchronize()
        trace = folder / "trace.json"
        profiler.export_chrome_trace(str(trace))
        if not is_complete(trace):  # it only logs that
            raise OSError("the profiler could not write all of trace.json; the disk may be full")

    def synchronize(self) -> None:
        """Wait for the accelerator; the CPU is never behind."""
        if self.ops.device.type != "cpu":
            torch.accelerator.synchronize(self.ops.device)


SEEDED = "seeded"
"""Stands for a key inside the transforms: PyTorch's default generator has been seeded from it."""


def is_complete(trace: Path) -> bool:
    """Whether a file ends as JSON does; it may be large, and only its end is read."""
    if not trace.is_file():
        return False
    with trace.open("rb") as file:
        file.seek(max(0, trace.stat().st_size - 64))
        return file.read().rstrip().endswith(b"}")


def seeded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give the seed of a generator among the arguments to the default one, and leave that as it was found.

    A graph cannot take a generator as its argument, and fused kernels draw from the default one only.
    """

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        keys = [arg for arg in args if isinstance(arg, torch.Generator)]
        if not keys:
            return function(*args)
        devices = [] if keys[0].device.type == "cpu" else [keys[0].device.index or 0]
        with torch.random.fork_rng(devices, device_type=keys[0].device.type if devices else "cuda"):
            torch.manual_seed(keys[0].initial_seed())
            return function(*(SEEDED if isinstance(arg, torch.Generator) else arg for arg in args))

    return run


def _overwrite(old: list[Tensor], new: list[Tensor]) -> None:
    """Copy new tensors into old ones, where they are not those already.

    A new one that is the old one of another entry must be saved first. In a graph all are, since a look at
    identities would tie the program to these very tensors; it costs nothing, being part of what computes them.
    """
    pairs = [(x, y) for x, y in zip(old, new, strict=True) if x is not y]
    if torch.compiler.is_compiling():  # Inductor 2.13 leaves clones out, even where tensors change places
        pairs = [(x, torch.maximum(y, y)) for x, y in pairs]
    else:
        held = {id(x) for x in old}
        pairs = [(x, y.clone() if id(y) in held else y) for x, y in pairs]
    for x, y in pairs:
        x.copy_(y)
