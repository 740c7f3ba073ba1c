"""gpt2spec finds this backend by the entry point `jax` of the group `gpt2spec`, which names this module."""

from gpt2spec.backend import BackendInfo
from gpt2spec.hookspecs import hookimpl


@hookimpl
def gpt2spec_backend() -> BackendInfo:
    """Describe the backend."""
    return BackendInfo(
        name="jax",
        summary="JAX on CPU, GPU and TPU: one compiled program a step, layers by scan",
        factory="gpt2spec_jax.create:create",
        requires=("jax",),
        extra="jax",
        open_sharded="gpt2spec_jax.sharded_files:open_sharded",
        api_version=2,
    )
