"""Programs that Inductor compiles ahead of time, once on a machine.

They are kept in the user's cache folder, from where they load in milliseconds. A call of one runs neither guards nor
Python.
"""

import contextlib
import hashlib
import logging
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs
import torch
from torch import Tensor

Program = Callable[..., Tensor]
"""A function of tensors that are given one by one; it may overwrite some of them."""

Recipe = tuple[torch.nn.Module, tuple[Any, ...], Any]
"""A module of one result, arguments to call it with, and which of their axes vary (see `torch.export`)."""

log = logging.getLogger(__name__)
_programs: dict[str, Program | None] = {}


def program(name: str, recipe: Callable[[], Recipe]) -> Program | None:
    """The program called `name`, loaded or else made; None where it cannot be, as without a C++ compiler."""
    if name not in _programs:
        _programs[name] = _loaded_or_made(_folder() / f"{name}.pt2", recipe)
    return _programs[name]


def _loaded_or_made(path: Path, recipe: Callable[[], Recipe]) -> Program | None:
    with contextlib.suppress(Exception):  # a file that is not there yet, or damaged
        return _load(path)
    try:
        print("compiling a program for decoding (half a minute, once on this machine) ...", file=sys.stderr)
        _compile(path, recipe)
        return _load(path)
    except Exception as error:
        log.warning("decoding goes on without a compiled program: %s", error)
        return None


def _load(path: Path) -> Program:
    loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)
    return lambda *tensors: loader.boxed_run(list(tensors))[0]


def _compile(path: Path, recipe: Callable[[], Recipe]) -> None:
    """Write the program to `path`, whole or not at all."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of PyTorch about itself
        module, example, varying = recipe()
        exported = torch.export.export(module, example, dynamic_shapes=varying)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = torch._inductor.aoti_compile_and_package(exported, package_path=str(Path(folder) / path.name))
            Path(made).replace(path)


def _folder() -> Path:
    """The folder of programs for this PyTorch on this processor: they use all of its instructions."""
    flags = ""
    if Path("/proc/cpuinfo").exists():
        flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    machine = "/".join([torch.__version__, platform.platform(), platform.processor(), flags])
    digest = hashlib.blake2b(machine.encode(), digest_size=8).hexdigest()
    return Path(platformdirs.user_cache_dir("gpt2spec")) / "torch" / digest
