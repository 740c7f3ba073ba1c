"""gpt2spec finds this backend by the entry point `tinygrad` of the group `gpt2spec`, which names this module."""

from gpt2spec.backend import BackendInfo
from gpt2spec.hookspecs import hookimpl


@hookimpl
def gpt2spec_backend() -> BackendInfo:
    """Describe the backend."""
    return BackendInfo(
        name="tinygrad",
        summary="tinygrad on CPU, CUDA, METAL and more: one captured program a step",
        factory="gpt2spec_tinygrad.create:create",
        requires=("tinygrad",),
        extra="tinygrad",
        api_version=2,
    )
