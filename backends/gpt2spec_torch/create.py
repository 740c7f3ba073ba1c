"""Makes the PyTorch backend from what a user asks for: on one device, or as one of several processes."""

import torch

from gpt2spec.errors import BackendError
from gpt2spec.options import check_flag
from gpt2spec_torch.backend import Compile, TorchBackend
from gpt2spec_torch.parallel import processes


def create(
    device: str | None = None,
    dtype: str = "float32",
    compile: bool | str = True,
    int8: bool | str = False,
    parallel: str | None = None,
) -> TorchBackend:
    """Make the backend on a device in PyTorch's words; the default is its accelerator, or else the CPU.

    `compile` is "blocks" (one program for all layers, the rest eager: on a CPU as fast as one graph, and ready in a
    third of the time), "step" (the whole function is one graph) or false. True is "blocks" on a CPU, else "step".

    `parallel` makes it one of several processes that `torchrun` started, on the accelerator of its local rank. With
    "data", the default where there are several processes, each has all weights; with "sharded", a shard of each.
    """
    if parallel is None and processes.launched():
        parallel = "data"
    if parallel not in (None, "data", "sharded"):
        raise BackendError(f"backend 'torch' runs in parallel as data or sharded, not as {parallel!r}")
    device = device if parallel is None else processes.local_device(device)
    available = available_devices()
    if device is None:
        device = available[-1].split(":")[0] if len(available) > 1 else "cpu"
    if device not in available:
        raise BackendError(f"PyTorch has no device {device!r} here; there is {', '.join(available)}")
    mode, int8 = _compile_mode(compile, device), check_flag("torch", "int8", int8)
    if parallel is None:
        return TorchBackend(torch.device(device), dtype, mode, int8)
    return _parallel(parallel, torch.device(device), dtype, mode if str(compile) == "step" else _by_blocks(mode), int8)


def _by_blocks(mode: Compile) -> Compile:
    """The mode for `compile=True` in parallel: one graph could not send gradients while it computes others."""
    return "off" if mode == "off" else "blocks"


def _parallel(kind: str, device: torch.device, dtype: str, compile: Compile, int8: bool) -> TorchBackend:
    from gpt2spec_torch.parallel.data_parallel import DataParallelBackend
    from gpt2spec_torch.parallel.sharded import ShardedBackend

    if compile == "step":
        raise BackendError("compile=step makes one graph of a step; in parallel, PyTorch compiles blocks")
    make = DataParallelBackend if kind == "data" else ShardedBackend
    return make(device, dtype, compile, int8, processes.TorchProcesses())


def _compile_mode(value: bool | str, device: str) -> Compile:
    modes: dict[str, Compile] = {
        "true": "blocks" if device == "cpu" else "step",
        "false": "off",
        "blocks": "blocks",
        "step": "step",
    }
    if (text := str(value).lower()) not in modes:
        raise BackendError(f"option 'compile' of backend 'torch' is true or false, or blocks or step, not {value!r}")
    return modes[text]


def available_devices() -> list[str]:
    """The names that `torch.device` takes on this machine, the CPU first: cpu, cuda, cuda:0, ..."""
    if not torch.accelerator.is_available():
        return ["cpu"]
    kind = torch.accelerator.current_accelerator()
    assert kind is not None
    return ["cpu", kind.type, *(f"{kind.type}:{i}" for i in range(torch.accelerator.device_count()))]
