"""Makes the JAX backend from what a user asks for: on one device, or on a mesh of several in one process or in many."""

import contextlib
import inspect
from pathlib import Path
from typing import Any, NamedTuple

import jax
import platformdirs

from gpt2spec.errors import BackendError
from gpt2spec.options import check_flag
from gpt2spec_jax.backend import JaxBackend
from gpt2spec_jax.parallel import KINDS, ParallelJaxBackend


class Options(NamedTuple):
    """The options of the backend besides its device and dtype.

    Attributes:
        remat: compute a block's activations again in the backward pass, instead of keeping them.
        compile: compile functions.
        parallel: "data", "sharded" or "tensor", on all devices of a kind unless `devices` says how many.
        devices: the number of devices.
        model_devices: the number of devices that split a product: by default one, with "tensor" all.
        distributed: this is one of several processes, and JAX can find out which.
        coordinator: the address where the first of several processes listens.
        processes: the number of processes.
        process: which of the processes this is, from 0.
    """

    remat: bool = False
    compile: bool = True
    parallel: str | None = None
    devices: int | None = None
    model_devices: int | None = None
    distributed: bool = False
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None

    @classmethod
    def read(cls, given: dict[str, Any]) -> "Options":
        """The options from flags and numbers that may be text, as on the command line."""
        asked = cls(**given)
        read: dict[str, Any] = {name: check_flag("jax", name, getattr(asked, name)) for name in ("remat", "compile")}
        read |= {name: _whole_number(name, getattr(asked, name)) for name in NUMBERS}
        return asked._replace(**read, distributed=check_flag("jax", "distributed", asked.distributed))


NUMBERS = ("devices", "model_devices", "processes", "process")
"""The options that are numbers."""


def create(device: str | None = None, dtype: str = "float32", **options: Any) -> JaxBackend:
    """Make the backend on a device such as "cpu", "gpu", "tpu" or "cuda:1"; the default is JAX's own.

    It takes the options of `Options`.
    """
    asked = Options.read(options)
    joins = asked.distributed or asked.coordinator is not None
    if joins or asked.parallel is not None:
        return _parallel(device, dtype, asked, joins)
    if given := [name for name in NUMBERS if getattr(asked, name) is not None]:
        raise BackendError(f"option {given[0]!r} of backend 'jax' is for several devices: give --parallel as well")
    _keep_compiled_programs()
    return JaxBackend(find_device(device), dtype, asked.remat, asked.compile)


_device_and_dtype = list(inspect.signature(create).parameters.values())[:2]
create.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # what the command line's options must fit
    [*_device_and_dtype, *inspect.signature(Options).parameters.values()]
)


def _parallel(device: str | None, dtype: str, asked: Options, joins: bool) -> JaxBackend:
    """The backend on a mesh of devices, once this process has joined the others if there are any."""
    kind = asked.parallel or "data"
    if kind not in KINDS:
        raise BackendError(f"backend 'jax' runs in parallel as {', '.join(KINDS)}, not as {kind!r}")
    if joins:
        _join(asked.coordinator, asked.processes, asked.process)
    _keep_compiled_programs()
    devices = jax.devices(find_device(device).platform)[: asked.devices]
    model = asked.model_devices or (len(devices) if kind == "tensor" else 1)
    return ParallelJaxBackend(devices, dtype, asked.remat, asked.compile, kind, model)


def _join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Meet the job's other processes, which JAX finds by itself under SLURM, Open MPI and on cloud TPUs."""
    if jax.distributed.is_initialized():
        return
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except (RuntimeError, ValueError) as error:
        raise BackendError(f"JAX cannot start its processes: {error}") from error


def _whole_number(name: str, value: int | str | None) -> int | None:
    """The value of an option that is a whole number."""
    if value is None:
        return None
    if not str(value).isdigit() or (name != "process" and int(value) < 1):
        raise BackendError(f"option {name!r} of backend 'jax' is a whole number, not {value!r}")
    return int(value)


def _keep_compiled_programs() -> None:
    """Keep programs in the user's cache folder, unless JAX was given another."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        folder = Path(platformdirs.user_cache_dir("gpt2spec")) / "jax"
        jax.config.update("jax_compilation_cache_dir", str(folder))  # type: ignore[no-untyped-call]


def find_device(name: str | None) -> jax.Device:
    """The device called `name`, a platform with or without a number."""
    if name is None:
        return jax.devices()[0]
    platform, _, number = name.partition(":")
    with contextlib.suppress(RuntimeError, ValueError, IndexError):
        return jax.devices(platform)[int(number or 0)]
    known = [f"{d.platform}:{d.id}" for d in {*jax.devices(), *jax.devices("cpu")}]
    raise BackendError(f"JAX has no device {name!r} here; there is {', '.join(sorted(known))}")
