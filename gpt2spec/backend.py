"""The contract of a backend.

A plugin author subclasses `Backend`, gives it a `TensorOps`, and registers a `BackendInfo` through the
entry-point group `gpt2spec` (see `gpt2spec.hookspecs`). Everything else (tokens, data order, initial weights,
schedules, sampling, files) belongs to the core.

A backend on one device needs only this page. A backend that trains in several processes also has a
`gpt2spec.processes.Processes`, and a backend whose weights are sharded a `gpt2spec.sharding.Sharding`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gpt2spec.ops import Key, Tensor, TensorOps
from gpt2spec.parameters import HostParams, named_params, params_tree
from gpt2spec.processes import ALONE, Processes
from gpt2spec.profiling import profiled_calls
from gpt2spec.sharding import Sharding
from gpt2spec.tree import Tree

Result = TypeVar("Result")
State = TypeVar("State")
Aux = TypeVar("Aux")

API_VERSION = 2
"""The version of this contract. A plugin made for another version is refused by name."""


@dataclass(frozen=True)
class BackendInfo:
    """A description of a backend, which is made without importing its framework.

    Attributes:
        name: the value of `--backend` that chooses it.
        summary: one line for `gpt2spec backends`.
        factory: `"package.module:callable"`, imported only when the backend is loaded; called as
            `callable(device=..., dtype=..., **options)`, it returns a `Backend`.
        requires: the modules that must be importable.
        extra: the extra of `gpt2spec`, or the pip requirement, that installs them.
        open_sharded: `"package.module:callable"`, called as `callable(folder)`: opens the files that the backend's
            `Sharding.save` wrote, as `{name: StoredTensor}`, for readers of whole tensors. It need not load the
            framework.
        api_version: the version of this contract that the plugin was written for, as a number. A plugin that does not
            say is taken for version 1.
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
    """What a backend can do. Using anything else raises `BackendError`.

    Attributes:
        dtypes: the compute dtypes that it accepts.
        gradients: whether it has `value_and_grad`.
        dropout: whether training with dropout repeats for equal (seed, step).
        compiled: whether `jit` and `jit_update` compile, one program per input shape.
        in_place: whether `jit_update` reuses the memory of the old state.
        asynchronous: whether calls return before the device is done, and reading a result takes long. Decoding then
            chooses tokens on the device.
        decoding_weights: the format to which `decoding_params` rounds weights, such as "int8"; None where they keep the
            compute dtype. The backend has an option of this name that is false by default.
    """

    dtypes: tuple[str, ...] = ("float32",)
    gradients: bool = True
    dropout: bool = True
    compiled: bool = False
    in_place: bool = False
    asynchronous: bool = False
    decoding_weights: str | None = None


class Backend(ABC):
    """A framework that computes in one dtype.

    Attributes:
        name: the name in its `BackendInfo`.
        device: the framework's name of the device.
        ops: its tensor operations.
        capabilities: what it can do.
        row_shares: how many devices divide the rows of a batch among them; the number of rows is a multiple of it.
        processes: the processes that train one model. Each is given its rows of every batch; the losses and gradients
            of `value_and_grad` are then the means over all processes.
        sharding: how sharded weights are saved, loaded and gathered; None where every device has all weights.
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
        """Turn `f(tree, *args) -> []` into the function `(tree, *args) -> (value, gradients like the tree)`."""

    @abstractmethod
    def jit(self, function: Callable[..., Result]) -> Callable[..., Result]:
        """Compile a function of trees for each input shape, if the framework compiles."""

    @abstractmethod
    def jit_update(self, function: Callable[..., tuple[State, Aux]]) -> Callable[..., tuple[State, Aux]]:
        """Compile `f(state, *args) -> (state, aux)`. The caller never uses the old state again."""

    @abstractmethod
    def dropout_key(self, seed: int, step: int) -> Key:
        """The key of dropout's random numbers in one step, which depends only on (seed, step)."""

    @abstractmethod
    def to_numpy(self, x: Tensor) -> np.ndarray:
        """Copy a tensor into a NumPy array; bfloat16 becomes float32."""

    # ------------------------------------------------------------------ to the device and back

    def put(self, array: np.ndarray | np.generic) -> Tensor:
        """Put an array of token ids (as int32) or numbers (as `param_dtype`) on the device."""
        dtype = "int32" if np.issubdtype(np.asarray(array).dtype, np.integer) else self.param_dtype
        return self.ops.asarray(array, dtype)

    def load_params(self, host: HostParams) -> Tree:
        """Put host parameters, or their moments, on the device, as {"wte", "wpe", "ln_f", "blocks"}.

        The result is their `params_tree` with the layers stacked by `ops.stack_layers`.
        """
        params = params_tree({name: self.ops.asarray(array, self.param_dtype) for name, array in host.items()})
        return {**params, "blocks": self.ops.stack_layers(params["blocks"])}

    def dump_params(self, params: Tree) -> HostParams:
        """Copy parameters to the host: the exact inverse of `load_params`, in checkpoint order."""
        params = {**params, "blocks": self.ops.unstack_layers(params["blocks"])}
        return {name: self.to_numpy(leaf) for name, leaf in named_params(params).items()}

    def decoding_params(self, params: Tree) -> Tree:
        """Parameters for `gpt2spec.model.cached_forward`: in the compute dtype, with the layers in a list.

        A backend may give them another layout for the few rows of decoding, which its own operations understand.
        """
        params = self.jit(self.ops.compute_params)(params)
        return {**params, "blocks": self.ops.unstack_layers(params["blocks"])}

    # ------------------------------------------------------------------ optional: speed and measurements

    def jit_step(self, function: Callable[..., tuple[State, Aux]]) -> Callable[..., tuple[State, Aux]]:
        """Do `jit_update` for a step of decoding, which is called many times with equal state, weights and shapes."""
        return self.jit_update(function)

    def synchronize(self) -> None:  # noqa: B027 - most have nothing to wait for
        """Wait until the device has finished all its work, for timing."""

    def peak_memory(self) -> int | None:
        """The peak memory of the device in bytes; None where it is not measured."""
        return None

    def profile(self, folder: Path) -> AbstractContextManager[Any]:
        """Trace this block and write the trace to `folder`. By default it has Python's calls, for `pstats`.

        Raises `OSError` where it cannot be written.
        """
        return profiled_calls(folder / "calls.prof")

    # ------------------------------------------------------------------ optional: batches of several devices

    def put_rows(self, array: np.ndarray) -> Tensor:
        """Put this process's rows of a training batch on the device, or divide them among its devices."""
        return self.put(array)

    def deferring(self, flag: bool) -> AbstractContextManager[None]:
        """With `flag`, more micro-batches follow, so a backend may defer sending gradients to the last one.

        In this block, `value_and_grad` may give any gradients that add up to those of the whole batch.
        """
        return nullcontext()
