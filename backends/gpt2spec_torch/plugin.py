"""gpt2spec finds this backend by the entry point `torch` of the group `gpt2spec`, which names this module."""

from gpt2spec.backend import BackendInfo
from gpt2spec.hookspecs import hookimpl


@hookimpl
def gpt2spec_backend() -> BackendInfo:
    """Describe the backend."""
    return BackendInfo(
        name="torch",
        summary="PyTorch on CPU, CUDA and whatever else it runs on, compiled by default",
        factory="gpt2spec_torch.create:create",
        requires=("torch",),
        extra="torch",
        open_sharded="gpt2spec.checkpoints.safetensors_shards:open_sharded",
        api_version=2,
    )
