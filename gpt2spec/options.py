"""This module checks options of a backend's factory, which are texts from the command line or values from Python."""

from gpt2spec.backend import Capabilities
from gpt2spec.errors import BackendError


def check_dtype(name: str, dtype: str, capabilities: Capabilities) -> None:
    """Raise `BackendError` unless the backend called `name` computes in `dtype`."""
    if dtype not in capabilities.dtypes:
        raise BackendError(f"backend {name!r} computes in {', '.join(capabilities.dtypes)}, not in {dtype!r}")


def check_flag(name: str, option: str, value: bool | str) -> bool:
    """The value of a boolean option of the backend `name`, which may be the text "true" or "false"."""
    flags = {"true": True, "false": False}
    text = str(value).lower()
    if text not in flags:
        raise BackendError(f"option {option!r} of backend {name!r} is true or false, not {value!r}")
    return flags[text]
