"""Several devices, of one process or of many, as a mesh on which arrays are laid out; XLA moves them.

The mesh has two axes. Along `data`, devices have rows of a batch; along `model`, they split each product. Nothing in
the model changes: programs are compiled for arrays that say how they are laid out (`NamedSharding`), and XLA puts the
communication in (Xu et al. 2021, GSPMD).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gpt2spec.errors import BackendError
from gpt2spec.ops import NativeKey as Key
from gpt2spec.ops import NativeTensor as Tensor
from gpt2spec.parameters import named_params, params_tree, split_axis
from gpt2spec.processes import ALONE, Processes
from gpt2spec.sharding import Sharding
from gpt2spec.tree import named_leaves, tree_unflatten
from gpt2spec_jax import sharded_files
from gpt2spec_jax.backend import JaxBackend
from gpt2spec_jax.ops import JaxOps

KINDS = ("data", "sharded", "tensor")


class ParallelJaxBackend(JaxBackend):
    """JAX on a mesh of devices.

    Parameters, gradients and moments are whole on each device ("data"), split over those of an axis of the mesh, in
    one piece of the arrays' axes ("sharded", over `data`) or along the axes of tensor parallelism ("tensor", over
    `model`). A mesh with both axes has both splits with "sharded".
    """

    def __init__(self, devices: Sequence[jax.Device], dtype: str, remat: bool, compile: bool, kind: str, model: int):
        if not compile:
            raise BackendError("on several devices, JAX runs compiled programs only: leave compile on")
        super().__init__(devices[0], dtype, remat, compile)
        if dtype == "float64":
            raise BackendError("float64 is for one device: on several, JAX computes in float32 or bfloat16")
        if len(devices) % model:
            raise BackendError(f"{len(devices)} devices do not divide into groups of {model}")
        self.kind = kind
        self.mesh = Mesh(np.array(devices).reshape(-1, model), ("data", "model"))
        self.device = f"{devices[0].platform}, {self.mesh.shape['data']} x {model} devices"
        self.processes = JaxProcesses() if jax.process_count() > 1 else ALONE
        self.row_shares = self.mesh.shape["data"]
        self.sharding = MeshSharding(self)
        self.ops = MeshOps(dtype, NamedSharding(self.mesh, P()), remat)

    def layout(self, path: tuple[str, ...], shape: Sequence[int]) -> NamedSharding:
        """The layout of a parameter by its name. Blocks are stacked, so that their first axis is that of layers.

        A layer alone, as it has names on the host (`h`, number, ...), is laid out like the others, without that axis.
        """
        first = 1 if path[0] == "blocks" else 0
        axes: list[str | None] = [None] * len(shape)
        split = split_axis(path)
        if split is not None and self._divides(shape[first + split], "model"):
            axes[first + split] = "model"
        if self.kind == "sharded":
            free = [i for i in range(first, len(shape)) if axes[i] is None and self._divides(shape[i], "data")]
            if free:
                axes[max(free, key=lambda i: shape[i])] = "data"
        return NamedSharding(self.mesh, P(*axes))

    def _divides(self, extent: int, axis: str) -> bool:
        return self.mesh.shape[axis] > 1 and extent % self.mesh.shape[axis] == 0

    def load_params(self, host: dict[str, np.ndarray]) -> Any:
        """Give each device its shards of arrays that are stacked on the host."""
        tree = params_tree({name: np.asarray(x, self.param_dtype) for name, x in host.items()})
        tree["blocks"] = jax.tree.map(lambda *leaves: np.stack(leaves), *tree["blocks"])
        leaves = [_laid_out(x, self.layout(path, x.shape)) for path, x in named_leaves(tree)]
        return tree_unflatten(tree, leaves)

    def put_rows(self, array: np.ndarray) -> Tensor:
        """Divide rows among the devices along `data`; the rows of several processes become one array."""
        sharding = NamedSharding(self.mesh, P("data"))
        return jax.make_array_from_process_local_data(sharding, np.asarray(array, np.int32))

    def jit_update(self, function: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
        """Lay out the new state as the old one."""
        programs: dict[Any, Any] = {}

        def run(state: Any, *args: Any) -> Any:
            layouts = jax.tree.map(lambda x: x.sharding, state)
            key = (jax.tree.structure(state), *jax.tree.leaves(layouts))
            if key not in programs:
                programs[key] = jax.jit(function, donate_argnums=0, out_shardings=(layouts, None))
            return programs[key](state, *args)

        return run

    def dropout_key(self, seed: int, step: int) -> Key:
        """The key on every device, which is the same: random numbers depend on the places of rows."""
        data = jax.random.key_data(super().dropout_key(seed, step))
        return jax.random.wrap_key_data(_laid_out(np.asarray(data), NamedSharding(self.mesh, P())), impl="threefry2x32")

    def decoding_params(self, params: Any) -> Any:
        """Put the whole weights on every device."""
        return super().decoding_params(jax.device_put(params, NamedSharding(self.mesh, P())))

    def to_numpy(self, x: Tensor) -> np.ndarray:
        """Copy the whole array to the host; where processes have shards of it, all of them must ask."""
        if not x.is_fully_addressable:
            x = x.addressable_data(0) if x.is_fully_replicated else multihost_utils.process_allgather(x, tiled=True)
        return super().to_numpy(x)

    def peak_memory(self) -> int | None:
        """The peak memory of the first device of this process."""
        return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


class JaxProcesses(Processes):
    """The processes that JAX has joined."""

    def __init__(self) -> None:
        super().__init__(jax.process_index(), jax.process_count())

    def any(self, flag: bool) -> bool:
        """Gather the flags of all processes."""
        return bool(np.any(multihost_utils.process_allgather(np.array(flag))))

    def leave(self) -> None:
        """End JAX's connection to the other processes."""
        jax.distributed.shutdown()


class MeshSharding(Sharding):
    """Arrays that are laid out over a mesh, in files that Orbax writes.

    Programs read such arrays as they are, so there is nothing to gather. Orbax's processes meet in collectives of
    their devices, which training needs meanwhile, so there are no snapshots either.
    """

    def __init__(self, backend: ParallelJaxBackend) -> None:
        self.backend = backend
        self.processes = backend.processes
        self.across_processes = backend.processes.ranks > 1 and backend.kind != "data"

    def check_available(self) -> None:
        """Raise where Orbax is not installed."""
        sharded_files.orbax()

    def save(self, params: Any, folder: Path) -> None:
        """Write each layer by itself, in the layout that all layers have when they are stacked."""
        layers = self._changed(self.backend.ops.unstack_layers, params["blocks"], ("h",))
        with self.processes.all_or_none():
            sharded_files.write(named_params({**params, "blocks": layers}), folder)
        with self.processes.all_or_none():
            if self.processes.first:
                sharded_files.complete(folder)

    def load(self, folder: Path, shapes: dict[str, tuple[int, ...]]) -> Any:
        """Give each device its shards, whoever wrote them."""
        layout = self.backend.layout
        wanted = {name: (shape, layout(tuple(name.split(".")), shape)) for name, shape in shapes.items()}
        tree = params_tree(sharded_files.read(folder, wanted, self.backend.param_dtype))
        return {**tree, "blocks": self._changed(self.backend.ops.stack_layers, tree["blocks"], ("blocks",))}

    def _changed(self, function: Callable[[Any], Any], tree: Any, place: tuple[str, ...]) -> Any:
        """`function(tree)`, laid out as what stands in that place of the parameters."""
        made = jax.eval_shape(function, tree)
        layouts = [self.backend.layout((*place, *path), x.shape) for path, x in named_leaves(made)]
        return jax.jit(function, out_shardings=tree_unflatten(made, layouts))(tree)


class MeshOps(JaxOps):
    """Operations whose new arrays are on every device of the mesh; moments are laid out like their parameters."""

    device: Any

    def asarray(self, values: Any, dtype: str) -> Tensor:  # noqa: D102
        return _laid_out(np.array(values).astype(jax.numpy.dtype(dtype)), self.device)

    def zeros_like(self, x: Tensor) -> Tensor:  # noqa: D102
        return jax.numpy.zeros(x.shape, self.reduce_dtype, device=x.sharding)


def _laid_out(x: np.ndarray, sharding: NamedSharding) -> Tensor:
    """Lay out an array that every process has whole on its host."""
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
