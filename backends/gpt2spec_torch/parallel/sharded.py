"""A shard of every weight, gradient and moment in each process (Rajbhandari et al. 2020, ZeRO stage 3).

PyTorch's `fully_shard` (FSDP2) moves the tensors: a layer's weights are gathered just before it computes and let go
after it, forwards and backwards; their gradients are averaged and scattered. Outside, a weight is a `DTensor` that is
split along its first axis.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor, zeros

from gpt2spec.errors import BackendError
from gpt2spec.ops import AdamWScalars, TensorOps
from gpt2spec.ops import NativeTensor as Tensor
from gpt2spec.parameters import named_params, params_tree
from gpt2spec.sharding import Sharding
from gpt2spec.tree import tree_leaves, tree_map, tree_unflatten
from gpt2spec_torch import layouts
from gpt2spec_torch.backend import Compile, seeded
from gpt2spec_torch.ops import TorchOps
from gpt2spec_torch.parallel.data_parallel import ParallelTorchBackend
from gpt2spec_torch.parallel.processes import TorchProcesses


class ShardedBackend(ParallelTorchBackend):
    """Sharded parameters and optimizer state; each process has rows of the batch."""

    sharding: TorchSharding

    def __init__(
        self, device: torch.device, dtype: str, compile: Compile, int8: bool, processes: TorchProcesses
    ) -> None:
        super().__init__(device, dtype, compile, int8, processes)
        self.ops = ShardedOps(dtype, device)
        self.mesh = DeviceMesh(device.type, torch.arange(processes.ranks))
        self.sharding = TorchSharding(processes, self.mesh, getattr(torch, self.param_dtype))
        self.models: dict[int, Model] = {}

    def load_params(self, host: dict[str, np.ndarray]) -> Any:
        """Each process keeps its shards of what all of them were given."""

        def shard(x: np.ndarray) -> Tensor:
            return distribute_tensor(self.ops.asarray(x, self.param_dtype), self.mesh, [Shard(0)], src_data_rank=None)

        return params_tree({name: shard(x) for name, x in host.items()})

    def to_numpy(self, x: Tensor) -> np.ndarray:
        """The whole tensor, which all processes must ask for."""
        return super().to_numpy(_whole(x))

    def decoding_params(self, params: Any) -> Any:
        """The weights of the whole model, in every process."""
        return super().decoding_params(self.sharding.gather(params))

    def value_and_grad(self, function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Any]]:
        """Value and gradients, both the means over the processes; gradients are sharded like the parameters."""

        def evaluate(tree: Any, *args: Any) -> tuple[Tensor, Any]:
            with self.processes.all_there(), torch.enable_grad():
                model = self._model(tree)
                model.zero_grad(set_to_none=True)
                value = model(function, *args)
                value.backward()
                gradients = [parameter.grad.detach() for parameter in model.leaves]
                return self.mean(value), tree_unflatten(tree, gradients)

        return seeded(evaluate)

    def jit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function compiled; it is given parameters as its layers need them."""
        whole = super().jit(function)

        def gathered(tree: Any, *args: Any) -> Any:
            model = self._model(tree)
            with self.processes.all_there():
                value = model(function, *args)
            cast(FSDPModule, model).reshard()  # it keeps what it gathered for a backward pass, which does not come
            return value

        sharded = super().jit(gathered)
        return lambda *args: (sharded if _are_params(args) else whole)(*args)

    def _model(self, params: Any) -> Model:
        """The module of some parameters: they share memory, and an update in place reaches both."""
        leaves = tree_leaves(params)
        key = leaves[0].to_local().data_ptr()
        if key not in self.models:
            model = Model(params, self.mesh)
            key = leaves[0].to_local().data_ptr()  # the module's from now on
            self.models = {key: model}
        return self.models[key]


class TorchSharding(Sharding):
    """Weights as `DTensor`, in the files of PyTorch's distributed checkpoints.

    Attributes:
        mesh: the devices that the weights are split over.
        dtype: the dtype of the weights.
    """

    processes: TorchProcesses

    def __init__(self, processes: TorchProcesses, mesh: DeviceMesh, dtype: torch.dtype) -> None:
        self.processes, self.mesh, self.dtype = processes, mesh, dtype
        self.on_hosts: TorchSharding | None = None

    def gather(self, params: Any) -> Any:
        """Every process gathers all shards."""
        with self.processes.all_there():
            return tree_map(_whole, params)

    def snapshot(self, state: Any) -> tuple[TorchSharding, Any]:
        """Copy the shards to a mesh of the hosts, which is made for the first snapshot and kept."""
        if self.on_hosts is None:
            processes = self.processes.in_own_group()
            self.on_hosts = TorchSharding(processes, DeviceMesh("cpu", torch.arange(processes.ranks)), self.dtype)
        mesh = self.on_hosts.mesh

        def copied(x: DTensor) -> DTensor:
            local = x.to_local().to("cpu", copy=True)
            return DTensor.from_local(local, mesh, x.placements, run_check=False, shape=x.shape, stride=x.stride())

        return self.on_hosts, tree_map(copied, state)

    def save(self, params: Any, folder: Path) -> None:
        """Write safetensors files, one for each process."""
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        with self.processes.all_there(), failures_of_files():
            save(named_params(params), storage_writer=writer, process_group=self.processes.group)

    def load(self, folder: Path, shapes: dict[str, tuple[int, ...]]) -> Any:
        """Each process reads the rows that are its own."""
        named = {
            name: zeros(shape, dtype=self.dtype, device_mesh=self.mesh, placements=[Shard(0)])
            for name, shape in shapes.items()
        }
        with self.processes.all_there(), failures_of_files():
            load(named, storage_reader=HuggingFaceStorageReader(str(folder)))
        return params_tree(named)


class Layer(nn.Module):
    """The weights of a block, whole while it computes."""

    def __init__(self, tree: Any) -> None:
        super().__init__()
        self.frame = tree_map(lambda _: None, tree)
        self.leaves = nn.ParameterList(nn.Parameter(leaf) for leaf in tree_leaves(tree))

    def forward(self, block: Callable[..., Any], x: Tensor) -> Any:
        """`block(x, weights)`."""
        return block(x, tree_unflatten(self.frame, list(self.leaves)))


class Model(nn.Module):
    """The parameters of a model as modules that gather them when they are called.

    Attributes:
        leaves: the shards of the parameters, in the order of the tree.
    """

    def __init__(self, params: Any, mesh: DeviceMesh) -> None:
        super().__init__()
        whole = tree_map(lambda x: torch.empty(x.shape, dtype=x.dtype, device="meta"), params)  # nobody has it
        blocks = [Layer(tree) for tree in whole.pop("blocks")]
        self.layers = nn.ModuleList(blocks)
        self.frame = tree_map(lambda _: None, whole)
        self.rest = nn.ParameterList(nn.Parameter(leaf) for leaf in tree_leaves(whole))
        for layer in blocks:
            fully_shard(layer, mesh=mesh)
        fully_shard(self, mesh=mesh)
        self.to_empty(device=mesh.device_type)
        self.leaves = self._in_order(params, blocks)
        with torch.no_grad():
            for x, parameter in zip(tree_leaves(params), self.leaves, strict=True):
                parameter.to_local().copy_(x.to_local())
                x.to_local().set_(parameter.to_local())

    def _in_order(self, params: Any, blocks: list[Layer]) -> list[Any]:
        rest = tree_unflatten(self.frame, list(self.rest))
        layers = [tree_unflatten(layer.frame, list(layer.leaves)) for layer in blocks]
        return tree_leaves({name: layers if name == "blocks" else rest[name] for name in params})

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function(tree, *args)`, the tree's blocks being `ShardedBlocks`."""
        tree = tree_unflatten(self.frame, list(self.rest))
        return function({**tree, "blocks": ShardedBlocks(self.layers)}, *args)


class ShardedBlocks:
    """The blocks in the parameters of a `Model`, a leaf of their tree; each is whole while it computes."""

    def __init__(self, layers: nn.ModuleList) -> None:
        self.layers = layers

    def to(self, dtype: torch.dtype) -> ShardedBlocks:
        """The blocks as they are: their weights are cast when they are gathered."""
        return self


@layouts.scan_blocks.register(ShardedBlocks)
def scan_blocks(blocks: ShardedBlocks, ops: TorchOps, block: Callable[..., Any], x: Tensor, **shared: Any) -> Any:
    """Computes each block within its module's forward pass."""
    outs = []
    for i, layer in enumerate(blocks.layers):

        def compute(x: Tensor, tree: Any, i: int = i) -> tuple[Any, ...]:
            return block(x, i, ops.compute_params(tree), **shared)

        x, *out = layer(compute, x)
        outs.append(out)
    return x, *(list(column) for column in zip(*outs, strict=True))


class ShardedOps(TorchOps):
    """Operations on the shards of the optimizer's tensors, which are `DTensor`s."""

    def zeros_like(self, x: Tensor) -> Tensor:
        """Zeros that are sharded like the parameter."""
        return torch.zeros_like(x, dtype=getattr(torch, self.reduce_dtype))

    def accumulate(self, totals: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Adds shards, in place where that is allowed."""
        if not self.in_place:
            return TensorOps.accumulate(self, totals, gradients)
        torch._foreach_add_(_locals(totals), _locals(gradients))
        return totals

    def global_norm(self, tensors: Sequence[Tensor]) -> Tensor:
        """The norm of the whole tensors: the squares of the shards are added over the processes."""
        squares = super().global_norm(_locals(tensors)) ** 2
        dist.all_reduce(squares)
        return torch.sqrt(squares)

    def adamw_update(
        self,
        params: list[Tensor],
        grads: list[Tensor],
        m: list[Tensor],
        v: list[Tensor],
        decay: list[float],
        s: AdamWScalars,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Updates the shards in place."""
        super().adamw_update(_locals(params), _locals(grads), _locals(m), _locals(v), decay, s)
        return params, m, v


@contextlib.contextmanager
def failures_of_files() -> Iterator[None]:
    """Raises in every process what went wrong in the first one that failed."""
    try:
        yield
    except CheckpointException as error:
        first, _ = error.failures[min(error.failures)]
        if isinstance(first, OSError):
            raise first from None
        raise BackendError(f"PyTorch's distributed checkpoint failed: {first}") from error


def _whole(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def _locals(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [x.to_local() if isinstance(x, DTensor) else x for x in tensors]


def _are_params(args: Sequence[Any]) -> bool:
    first = args[0] if args else None
    return isinstance(first, dict) and "blocks" in first and isinstance(tree_leaves(first)[0], DTensor)
