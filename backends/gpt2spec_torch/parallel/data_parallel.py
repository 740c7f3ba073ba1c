"""A whole model in each process, and gradients averaged while the backward pass still runs.

PyTorch's `DistributedDataParallel` moves the tensors (Li et al. 2020): it sends a bucket of gradients as soon as the
backward pass has made it.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gpt2spec.ops import NativeTensor as Tensor
from gpt2spec.tree import tree_leaves, tree_map, tree_unflatten
from gpt2spec_torch.backend import Compile, TorchBackend, seeded
from gpt2spec_torch.parallel.processes import TorchProcesses


class ParallelTorchBackend(TorchBackend):
    """PyTorch in one of several processes."""

    processes: TorchProcesses

    def __init__(
        self, device: torch.device, dtype: str, compile: Compile, int8: bool, processes: TorchProcesses
    ) -> None:
        super().__init__(device, dtype, compile, int8)
        self.processes = processes
        self.row_shares = processes.ranks

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a scalar over all processes."""
        value = value.detach().clone()
        dist.all_reduce(value)
        return value / self.processes.ranks


class DataParallelBackend(ParallelTorchBackend):
    """Parameters and optimizer state in every process; each has rows of the batch."""

    deferred = False

    @contextlib.contextmanager
    def deferring(self, flag: bool) -> Iterator[None]:
        """With `flag`, gradients add up in their process; those of the last micro-batch are sent with them."""
        self.deferred = flag
        try:
            yield
        finally:
            self.deferred = False

    def value_and_grad(self, function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Any]]:
        """Value and gradients, both the means over the processes; while they are deferred, gradients are zero."""
        replica: DistributedDataParallel | None = None

        def evaluate(tree: Any, *args: Any) -> tuple[Tensor, Any]:
            nonlocal replica
            leaves = tree_leaves(tree)
            with self.processes.all_there(), torch.enable_grad():
                if replica is None or not replica.module.holds(leaves):
                    replica = DistributedDataParallel(Replica(function, tree), broadcast_buffers=False)
                with replica.no_sync() if self.deferred else contextlib.nullcontext():
                    value = replica(*args)
                    value.backward()
                if self.deferred:
                    return self.mean(value), tree_map(lambda x: x.new_zeros(()), tree)
                gradients = [parameter.grad for parameter in replica.module.leaves]
                replica.zero_grad(set_to_none=True)
                return self.mean(value), tree_unflatten(tree, gradients)

        return seeded(evaluate)


class Replica(nn.Module):
    """A function of a tree of tensors as a module with these as its parameters; their memory is shared."""

    def __init__(self, function: Callable[..., Tensor], tree: Any) -> None:
        super().__init__()
        self.function, self.tree = function, tree
        self.leaves = nn.ParameterList(nn.Parameter(leaf.detach()) for leaf in tree_leaves(tree))

    def holds(self, leaves: list[Tensor]) -> bool:
        """Whether it was made of these tensors, which an update in place does not change."""
        return all(x.data_ptr() == y.data_ptr() for x, y in zip(self.leaves, leaves, strict=True))

    def forward(self, *args: Any) -> Tensor:
        """The function's value."""
        return self.function(tree_unflatten(self.tree, list(self.leaves)), *args)
