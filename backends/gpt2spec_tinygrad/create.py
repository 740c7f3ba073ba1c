"""Makes the tinygrad backend from what a user asks for: on one device, or on several of a kind."""

from tinygrad.device import Device
from tinygrad.helpers import DEV

from gpt2spec.errors import BackendError
from gpt2spec.options import check_flag
from gpt2spec_tinygrad import clang
from gpt2spec_tinygrad.backend import TinygradBackend
from gpt2spec_tinygrad.parallel import ParallelTinygradBackend

DEVICES = ("METAL", "AMD", "NV", "CUDA", "QCOM", "CL", "CPU", "WEBGPU")
"""Devices of tinygrad, in the order in which it would choose."""


def create(
    device: str | None = None,
    dtype: str = "float32",
    compile: bool | str = True,
    parallel: str | None = None,
    devices: int | str | None = None,
) -> TinygradBackend:
    """Make the backend on a device in tinygrad's words ("CPU", "CUDA", "METAL:1"); the default is its own.

    With `parallel` "data", the rows of a batch are divided among the first `devices` devices of its kind.
    """
    compile = check_flag("tinygrad", "compile", compile)
    if device is None and not DEV.device:  # the user may name a device in the variable DEV
        device = [*_accelerators(), "CPU"][0]
    name = Device.canonicalize(device)
    if name == "CPU":
        clang.provide()
    if not _works(name):
        known = ", ".join([*_accelerators(), "CPU"])
        raise BackendError(f"tinygrad has no device {device!r} here; there is {known}")
    if parallel is None and devices is None:
        return TinygradBackend(name, dtype, compile)
    return ParallelTinygradBackend(_devices(name, parallel, devices), dtype, compile)


def _devices(name: str, parallel: str | None, devices: int | str | None) -> list[str]:
    """The names of the first devices of a kind; `devices` says how many."""
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


def _accelerators() -> list[str]:
    return [name for name in DEVICES if name != "CPU" and _works(name)]


def _works(device: str) -> bool:
    """Whether tinygrad can open the device, which is its only way to tell whether there is one."""
    kind, _, number = device.partition(":")
    if kind not in DEVICES or not (number or "0").isdigit():
        return False
    try:
        Device[device]
    except Exception:
        return False
    return True
