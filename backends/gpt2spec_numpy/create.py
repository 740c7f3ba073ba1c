"""Makes the NumPy backend from what a user asks for."""

from gpt2spec.errors import BackendError
from gpt2spec.options import check_flag
from gpt2spec_numpy.backend import NumpyBackend

MODES = ("fast", "reference")


def create(
    device: str | None = None, dtype: str = "float32", mode: str | None = None, compile: bool | str = False
) -> NumpyBackend:
    """Make the backend; `mode` is "fast" (default for float32) or "reference" (default for float64).

    The option `compile` may only be false. It exists so that every backend can be asked not to compile.
    """
    if check_flag("numpy", "compile", compile):
        raise BackendError("the NumPy backend compiles nothing: its option 'compile' is false")
    if device not in (None, "cpu"):
        raise BackendError(f"NumPy runs on the device 'cpu', not on {device!r}")
    if mode is None:
        mode = "fast" if dtype == "float32" else "reference"
    if mode not in MODES:
        raise BackendError(f"the NumPy backend has the modes {' and '.join(MODES)}, not {mode!r}")
    return NumpyBackend(dtype, mode)
