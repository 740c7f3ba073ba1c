"""The contract of a backend.

A plugin author subclasses `Backend`, gives it a `TensorOps`, and registers a `BackendInfo` through the
entry-point group `gpt2spec` (see `gpt2spec.hookspecs`). Everything else (tokens, data order, initial weights,
schedules, sampling, files) is the core's.

This page is all that a backend on one device needs. One that trains in several processes gives its `Backend` a
`gpt2spec.processes.Processes`, and one whose weights no device has whole a `gpt2spec.sharding.Sharding`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2spec.ops import Key, Tensor, TensorOps
from gpt2spec.parameters import HostParams, named_params, params_tree
from gpt2spec.processes import ALONE, Processes
from gpt2spec.profiling import profiled_calls
from gpt2spec.sharding import Sharding
from gpt2spec.tree import Tree

API_VERSION = 2
"""Version of this contract. A plugin made for another is refused by name."""


@dataclass(frozen=True)
class BackendInfo:
    """What can be said of a backend without importing its framework.

    Attributes:
        name: what `--backend` takes.
        summary: one line for `gpt2spec backends`.
        factory: `"package.module:callable"`, imported only when the backend is asked for; called as
            `callable(device=..., dtype=..., **options)`, it returns a `Backend`.
        requires: modules that must be importable.
        extra: the extra of `gpt2spec`, or the pip requirement, that brings them.
        open_sharded: `"package.module:callable"`, called as `callable(folder)`: opens what the backend's
            `Sharding.save` wrote, as `{name: StoredTensor}`, for whoever wants the whole. It need not load the
            framework.
        api_version: the version of this contract that the plugin was written for: `API_VERSION` as its author found it,
            written out. A plugin that does not say is of version 1.
    """

    name: str
    summary: str
    factory: str
    requires: tuple[str, ...] = ()
    extra: str | None = None
    open_sharded: str | None = None
    api_version: int = 1


@dataclass(frozen=True)
class Capabilities:
    """What a backend says it can do. Asking for what it cannot is a `BackendError`.

    Attributes:
        dtypes: compute dtypes it accepts.
        gradients: it has `value_and_grad`.
        dropout: training with dropout repeats for the same (seed, step).
        compiled: `jit` and `jit_update` compile, one program per input shape.
        in_place: `jit_update` reuses the memory of the old state.
        asynchronous: calls return before the device is done, and reading a result from it takes long: decoding
            then chooses tokens on the device.
        decoding_weights: what `decoding_params` rounds weights to, such as "int8"; None where they keep the compute
            dtype. The backend has an option of this name that is false by default.
    """

    dtypes: tuple[str, ...] = ("float32",)
    gradients: bool = True
    dropout: bool = True
    compiled: bool = False
    in_place: bool = False
    asynchronous: bool = False
    decoding_weights: str | None = None


class Backend(ABC):
    """A framework, computing in one dtype.

    Attributes:
        name: the name in its `BackendInfo`.
        device: the device in the framework's own words.
        ops: its tensor operations.
        capabilities: what it can do.
        row_shares: how many devices divide the rows of a batch among them: a batch has a multiple of them.
        processes: the processes that train one model together. Each is given its rows of every batch; the losses and
            gradients of `value_and_grad` are then the means over all of them.
        sharding: how weights are kept that no device has whole; None where every device has all of them.
    """

    name: str
    device: str
    ops: TensorOps
    capabilities: Capabilities
    row_shares: int = 1
    processes: Processes = ALONE
    sharding: Sharding | None = None

    @property
    def dtype(self) -> str:
        """The compute dtype: that of `ops`."""
        return self.ops.dtype

    @property
    def param_dtype(self) -> str:
        """The dtype of parameters, gradients and optimizer state on the device."""
        return self.ops.reduce_dtype

    # ------------------------------------------------------------------ required: transforms

    @abstractmethod
    def value_and_grad(self, function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tree]]:
        """From `f(tree, *args) -> []` the function `(tree, *args) -> (value, gradients like the tree)`."""

    @abstractmethod
    def jit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` of trees, compiled per input shape where the framework does that."""

    @abstractmethod
    def jit_update(self, function: Callable[..., tuple[Tree, Any]]) -> Callable[..., tuple[Tree, Any]]:
        """Compile `f(state, *args) -> (state, aux)`. The caller never uses the old state again."""

    @abstractmethod
    def dropout_key(self, seed: int, step: int) -> Key:
        """The source of dropout's random numbers in one step: the same for the same (seed, step)."""

    @abstractmethod
    def to_numpy(self, x: Tensor) -> np.ndarray:
        """A tensor as a NumPy array of its own; bfloat16 comes as float32."""

    # ------------------------------------------------------------------ to the device and back

    def put(self, array: np.ndarray | np.generic) -> Tensor:
        """An array of token ids (as int32) or numbers (as `param_dtype`) on the device."""
        dtype = "int32" if np.issubdtype(np.asarray(array).dtype, np.integer) else self.param_dtype
        return self.ops.asarray(array, dtype)

    def load_params(self, host: HostParams) -> Tree:
        """Host parameters on the device, as {"wte", "wpe", "ln_f", "blocks"}; also for their moments.

        It is `params_tree` of them, the layers stacked by `ops.stack_layers`.
        """
        params = params_tree({name: self.ops.asarray(array, self.param_dtype) for name, array in host.items()})
        return {**params, "blocks": self.ops.stack_layers(params["blocks"])}

    def dump_params(self, params: Tree) -> HostParams:
        """The exact inverse of `load_params`, in checkpoint order."""
        params = {**params, "blocks": self.ops.unstack_layers(params["blocks"])}
        return {name: self.to_numpy(leaf) for name, leaf in named_params(params).items()}

    def decoding_params(self, params: Tree) -> Tree:
        """Device parameters as `gpt2spec.model.cached_forward` takes them: in the compute dtype, layers in a list.

        A backend may lay them out for the few rows of decoding, in whatever its own operations read.
        """
        params = self.jit(self.ops.compute_params)(params)
        return {**params, "blocks": self.ops.unstack_layers(params["blocks"])}

    # ------------------------------------------------------------------ optional: speed and measurements

    def jit_step(self, function: Callable[..., tuple[Tree, Any]]) -> Callable[..., tuple[Tree, Any]]:
        """`jit_update` of a step of decoding: it is called many times with the same state, weights and shapes."""
        return self.jit_update(function)

    def synchronize(self) -> None:  # noqa: B027 - most have nothing to wait for
        """Wait until the device has finished what it was given: for timing."""

    def peak_memory(self) -> int | None:
        """The most bytes of the device's own memory that were in use at a time; None where that is not counted."""
        return None

    def profile(self, folder: Path) -> AbstractContextManager[Any]:
        """Trace what runs inside, and write it to `folder`: here Python's calls, as `pstats` reads them.

        Raises `OSError` where it cannot be written.
        """
        return profiled_calls(folder / "calls.prof")

    # ------------------------------------------------------------------ optional: batches of several devices

    def put_rows(self, array: np.ndarray) -> Tensor:
        """Rows of a training batch on the device, or on each its own: this process's rows of the batch."""
        return self.put(array)

    def deferring(self, flag: bool) -> AbstractContextManager[None]:
        """With `flag`, more micro-batches follow: a backend may leave out gradients until the last one.

        What `value_and_grad` gives inside is then any gradients that add up to those of the whole batch.
        """
        return nullcontext()
