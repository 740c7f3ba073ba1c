"""The processes of one job, as `torchrun` starts them."""

import contextlib
import copy
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist

from gpt2spec.errors import BackendError
from gpt2spec.processes import Processes

LOST = ("connection", "gloo", "nccl", "peer", "socket", "timed out", "broken pipe")
"""Words in PyTorch's messages about a process that is no longer there."""


def launched() -> bool:
    """Whether this is a process of several, by the variables that `torchrun` sets and PyTorch reads."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def local_device(device: str | None) -> str | None:
    """The device of this process: among several accelerators of a machine, the one of its local rank."""
    if device is None and torch.cuda.is_available():
        device = "cuda"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device


def attempt() -> str:
    """A prefix for the processes' messages that is another one after each restart by `torchrun`.

    PyTorch 2.13 hands one store to all attempts, where a process may find the address of one that has ended. On
    several machines, `torchrun` counts restarts for each; there it is told to make a new store each time.
    """
    if os.environ.get("LOCAL_WORLD_SIZE") != os.environ["WORLD_SIZE"]:
        return "gpt2spec"
    return f"gpt2spec/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"


class TorchProcesses(Processes):
    """The processes that PyTorch has joined.

    Attributes:
        group: the process group in which they talk; None is PyTorch's own.
    """

    group: dist.ProcessGroup | None = None

    def __init__(self) -> None:
        """Meet the others where the environment says, which waits for all of them."""
        if "RANK" not in os.environ:
            raise BackendError(
                "parallel training has a process for each device: start it with torchrun --nproc-per-node N "
                "-m gpt2spec train ..."
            )
        if not dist.is_initialized():
            cuda = torch.cuda.is_available()
            if cuda:
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            store, rank, ranks = next(iter(dist.rendezvous("env://")))  # type: ignore[attr-defined]
            backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
            store = dist.PrefixStore(attempt(), store)  # type: ignore[attr-defined]
            dist.init_process_group(backend, store=store, rank=rank, world_size=ranks)
        super().__init__(dist.get_rank(), dist.get_world_size())

    def in_own_group(self) -> "TorchProcesses":
        """These processes in a group of their hosts, so that another thread can use it. All of them must ask."""
        processes = copy.copy(self)
        processes.group = dist.new_group(backend="gloo")
        return processes

    def any(self, flag: bool) -> bool:
        """The largest flag, reduced over the hosts: they wait for each other, accelerators do not."""
        said = torch.tensor([int(flag)])
        with self.all_there():
            dist.all_reduce(said, dist.ReduceOp.MAX, group=self.group)
        return bool(said.item())

    @contextlib.contextmanager
    def all_there(self) -> Iterator[None]:
        """Turn PyTorch's error into a `BackendError` where another process has ended in the meantime."""
        try:
            yield
        except RuntimeError as error:
            if not any(word in str(error).lower() for word in LOST):
                raise
            raise BackendError(
                f"process {self.rank} of {self.ranks} waits for another one that has ended; see that one's message"
            ) from error

    def leave(self) -> None:
        """End PyTorch's process group."""
        if dist.is_initialized():
            dist.destroy_process_group()
