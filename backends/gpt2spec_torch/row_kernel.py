"""A matrix-vector product that reads its weights at the speed of memory: decoding on a CPU is little else.

PyTorch's own products are made for many rows; for one they reach half of that or less, and in bfloat16 a quarter.
This one is Inductor's loop, compiled ahead of time, once on a machine: the program is kept in the user's cache
folder, from where it loads in milliseconds.
"""

import contextlib
import functools
import hashlib
import logging
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import platformdirs
import torch
from torch import Tensor

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""From x [1, K], weight [N, K], scale [N] and bias [N] to (weight x) scale + bias, float32 [N]."""

log = logging.getLogger(__name__)


class _Row(torch.nn.Module):
    def forward(self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return (weight.to(torch.float32) * x.to(torch.float32)).sum(-1) * scale + bias


@functools.cache
def row_kernel(activations: torch.dtype, weights: torch.dtype) -> Kernel | None:
    """The kernel for x and weights of these dtypes; None where it cannot be compiled, as without a C++ compiler."""
    path = _folder() / f"row-{str(activations)[6:]}-{str(weights)[6:]}.pt2"
    with contextlib.suppress(Exception):  # a file that is not there yet, or damaged
        return _load(path)
    try:
        _compile(path, activations, weights)
        return _load(path)
    except Exception as error:
        log.warning("decoding goes on without a compiled kernel: %s", error)
        return None


def _load(path: Path) -> Kernel:
    loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)
    return lambda *tensors: loader.boxed_run(list(tensors))[0]


def _compile(path: Path, activations: torch.dtype, weights: torch.dtype) -> None:
    """Write the program to `path`, whole or not at all."""
    print("compiling a kernel for decoding (half a minute, once on this machine) ...", file=sys.stderr)
    K, N = (torch.export.Dim(name, min=2, max=1 << 24) for name in "KN")
    example = (
        torch.zeros(1, 768, dtype=activations),
        torch.zeros(640, 768, dtype=weights),
        torch.ones(640),
        torch.zeros(640),
    )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of PyTorch about itself
        program = torch.export.export(_Row(), example, dynamic_shapes=({1: K}, {0: N, 1: K}, {0: N}, {0: N}))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = torch._inductor.aoti_compile_and_package(program, package_path=str(Path(folder) / path.name))
            Path(made).replace(path)


def _folder() -> Path:
    """Of programs for this PyTorch on this processor: they use all of its instructions."""
    flags = ""
    if Path("/proc/cpuinfo").exists():
        flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    machine = "/".join([torch.__version__, platform.platform(), platform.processor(), flags])
    digest = hashlib.blake2b(machine.encode(), digest_size=8).hexdigest()
    return Path(platformdirs.user_cache_dir("gpt2spec")) / "torch" / digest
