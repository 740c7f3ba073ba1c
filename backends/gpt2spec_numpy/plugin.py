"""gpt2spec finds this backend by the entry point `numpy` of the group `gpt2spec`, which names this module."""

from gpt2spec.backend import BackendInfo
from gpt2spec.hookspecs import hookimpl


@hookimpl
def gpt2spec_backend() -> BackendInfo:
    """Describe the backend. NumPy and autograd come with gpt2spec itself."""
    return BackendInfo(
        name="numpy",
        summary="NumPy on the CPU: the reference, and fast enough to train small models",
        factory="gpt2spec_numpy.create:create",
        requires=("numpy", "autograd"),
        api_version=2,
    )
