"""The whole contract of a backend.

A plugin author subclasses `Backend`, gives it a `TensorOps`, and registers a `BackendInfo` through the
entry-point group `gpt2spec` (see `gpt2spec.hookspecs`). Everything else (tokens, data order, initial weights,
schedules, sampling, files) is the core's.
"""

from __future__ import annotations

import cProfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt2spec.errors import BackendError, GPT2SpecError
from gpt2spec.ops import Key, Tensor, TensorOps
from gpt2spec.parameters import split_axis
from gpt2spec.tree import Tree, named_leaves, tree_leaves, tree_map, tree_unflatten

API_VERSION = 1
"""Version of this contract. A plugin made for another is refused by name."""

_CHECKPOINT_ORDER = [
    *("wte", "wpe", "h", "ln_f"),
    *("ln_1", "attn", "ln_2", "mlp"),
    *("c_attn", "c_fc", "c_proj"),
    *("weight", "bias"),
]
"""Parts of weights' names in the order of a checkpoint."""


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
        api_version: the version of this contract the plugin was written for.
        parts: `"package.module:callable"`, called as `callable(folder)`: opens what the backend's `save_parts` wrote,
            as `{name: StoredTensor}`, for whoever wants the whole. It need not load the framework.
    """

    name: str
    summary: str
    factory: str
    requires: tuple[str, ...] = ()
    extra: str = ""
    api_version: int = API_VERSION
    parts: str = ""


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
        decoding_weights: what `decoding_params` rounds weights to, where that is less than the compute dtype:
            "int8", or empty. The backend has an option of this name that is false by default.
    """

    dtypes: tuple[str, ...] = ("float32",)
    gradients: bool = True
    dropout: bool = True
    compiled: bool = False
    in_place: bool = False
    asynchronous: bool = False
    decoding_weights: str = ""


class StoredTensor(NamedTuple):
    """A tensor that some processes have written in parts.

    Attributes:
        shape: of the whole.
        dtype: of the files, such as "float32".
        read: reads the whole [*shape].
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


class Backend(ABC):
    """A framework, on one device, computing in one dtype.

    Attributes:
        name: as in its `BackendInfo`.
        device: the device in the framework's own words.
        dtype: what activations are computed in.
        param_dtype: what parameters and optimizer state are kept in: float32, or float64 with `dtype`.
        ops: its tensor operations.
        capabilities: what it can do.
        rank: which of the job's processes this is, from 0.
        ranks: how many processes train one model together. Each is given its rows of every batch; the losses and
            gradients of `value_and_grad` are then the means over all of them.
        row_shares: how many devices divide the rows of a batch among them: a batch has a multiple of them.
        sharded: no process has all of a parameter: `dump_params`, `to_numpy` of its tensors and `decoding_params` give
            the whole, and all processes must ask for it.
    """

    name: str
    device: str
    ops: TensorOps
    capabilities: Capabilities
    rank: int = 0
    ranks: int = 1
    row_shares: int = 1
    sharded: bool = False

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

    # ------------------------------------------------------------------ optional

    def synchronize(self) -> None:  # noqa: B027 - most have nothing to wait for
        """Wait until the device has finished what it was given: for timing."""

    def deferring(self, flag: bool) -> AbstractContextManager[None]:
        """With `flag`, more parts of the same batch follow: a backend may leave out gradients until the last part.

        What `value_and_grad` gives inside is then any gradients that add up to those of all parts.
        """
        return nullcontext()

    def any_rank(self, flag: bool) -> bool:
        """Whether `flag` holds in any process. All of them ask, and so wait for each other."""
        return flag

    @contextmanager
    def together(self) -> Iterator[None]:
        """A piece of work of all processes, done when it ends; where one fails at it, all do.

        Failures are `GPT2SpecError` and `OSError`; others end their process.
        """
        failure: Exception | None = None
        try:
            yield
        except (GPT2SpecError, OSError) as error:
            failure = error
        if self.any_rank(failure is not None):
            raise failure or BackendError(f"process {self.rank} of {self.ranks} ends with another one: see its message")

    def aside(self) -> Backend | None:
        """This backend for a thread beside the steps, where it saves what `copied` gave; None where it cannot.

        What processes tell each other there does not meet what they tell each other here. All of them ask together.
        """
        return None

    def copied(self, params: Tree) -> Tree:
        """Parameters on the host, for `aside` to save while the steps go on: of each process, what is its own."""
        raise NotImplementedError

    def leave(self) -> None:  # noqa: B027 - a process alone has nothing to end
        """End the processes' common work, when all is done."""

    def peak_memory(self) -> int | None:
        """The most bytes of the device's own memory that were in use at a time; None where that is not counted."""
        return None

    def profile(self, folder: Path) -> AbstractContextManager[Any]:
        """Trace what runs inside, and write it to `folder`: here Python's calls, as `pstats` reads them.

        Raises `OSError` where it cannot be written.
        """
        return profiled_calls(folder / "calls.prof")

    def jit_step(self, function: Callable[..., tuple[Tree, Any]]) -> Callable[..., tuple[Tree, Any]]:
        """`jit_update` of a step of decoding: it is called many times with the same state, weights and shapes."""
        return self.jit_update(function)

    def put(self, array: np.ndarray | np.generic) -> Tensor:
        """An array of token ids (as int32) or numbers (as `param_dtype`) on the device."""
        dtype = "int32" if np.issubdtype(np.asarray(array).dtype, np.integer) else self.param_dtype
        return self.ops.asarray(array, dtype)

    def put_rows(self, array: np.ndarray) -> Tensor:
        """Rows of a training batch on the device, or each on its own: this process's part of the batch."""
        return self.put(array)

    def whole_params(self, params: Tree) -> Tree:
        """Device parameters that functions of `jit` may read one by one; where `sharded`, all processes must ask."""
        return params

    def decoding_params(self, params: Tree) -> Tree:
        """Device parameters as `gpt2spec.model.cached_forward` takes them: in the compute dtype, layers in a list.

        A backend may lay them out for the few rows of decoding, in whatever its own operations read.
        """
        params = self.jit(self.ops.compute_params)(params)
        return {**params, "blocks": self.ops.unstack_layers(params["blocks"])}

    def load_params(self, host: dict[str, np.ndarray]) -> Tree:
        """Host parameters on the device, as {"wte", "wpe", "ln_f", "blocks"}; also for their moments.

        It is `params_tree` of them, the layers stacked by `ops.stack_layers`.
        """
        params = params_tree({name: self.ops.asarray(array, self.param_dtype) for name, array in host.items()})
        return {**params, "blocks": self.ops.stack_layers(params["blocks"])}

    def dump_params(self, params: Tree) -> dict[str, np.ndarray]:
        """The exact inverse of `load_params`, in checkpoint order."""
        params = {**params, "blocks": self.ops.unstack_layers(params["blocks"])}
        return {name: self.to_numpy(leaf) for name, leaf in named_params(params).items()}

    def has_parts(self) -> bool:
        """Whether it has `save_parts` and `load_parts`; a `BackendError` where only a package for them is missing."""
        return False

    def save_parts(self, params: Tree, folder: Path) -> None:
        """Write the parameters, or their moments, that this process holds to `folder`, which all processes see.

        All processes call it together, and where one fails, all do. `load_parts` and `BackendInfo.parts` read the
        files, under the names that parameters have on the host. What goes wrong with a file is an `OSError` or a
        `BackendError`.
        """
        raise BackendError(f"backend {self.name!r} does not write parameters in parts")

    def load_parts(self, folder: Path, shapes: dict[str, tuple[int, ...]]) -> Tree:
        """What `save_parts` wrote, in however many processes: each of these reads what it is to hold.

        `shapes` has the names of all parameters and the shapes that they have on the host.
        """
        raise BackendError(f"backend {self.name!r} does not read parameters in parts")


def params_tree(named: dict[str, Any]) -> dict[str, Any]:
    """Values by their names on the host as {"wte", "wpe", "ln_f", "blocks"}, `blocks` being a list of layers.

    Names become nested dicts at their dots: `h.0.attn.c_attn.weight` is `blocks[0]["attn"]["c_attn"]["weight"]`.
    """
    params: dict[str, Any] = {}
    blocks: dict[int, dict[str, Any]] = {}
    for name, value in named.items():
        *parents, leaf = name.split(".")
        node = params
        if parents[0] == "h":
            node = blocks.setdefault(int(parents[1]), {})
            parents = parents[2:]
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return {**params, "blocks": [blocks[i] for i in sorted(blocks)]}


def named_params(params: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `params_tree`, in checkpoint order whatever the order of the dicts: some frameworks sort keys."""

    def place(name: str) -> list[int]:
        return [int(part) if part.isdigit() else _CHECKPOINT_ORDER.index(part) for part in name.split(".")]

    tree = {"h" if name == "blocks" else name: node for name, node in params.items()}
    named = {".".join(path): leaf for path, leaf in named_leaves(tree)}
    return {name: named[name] for name in sorted(named, key=place)}


@contextmanager
def profiled_calls(path: Path) -> Iterator[None]:
    """Count and time Python's calls inside, with cProfile."""
    profiler = cProfile.Profile()
    with profiler:
        yield
    profiler.dump_stats(path)


def check_dtype(name: str, dtype: str, capabilities: Capabilities) -> None:
    """Raise `BackendError` unless the backend called `name` computes in `dtype`."""
    if dtype not in capabilities.dtypes:
        raise BackendError(f"backend {name!r} computes in {', '.join(capabilities.dtypes)}, not in {dtype!r}")


def check_flag(name: str, option: str, value: bool | str) -> bool:
    """An option that is on or off; from the command line it comes as "true" or "false"."""
    flags = {"true": True, "false": False}
    text = str(value).lower()
    if text not in flags:
        raise BackendError(f"option {option!r} of backend {name!r} is true or false, not {value!r}")
    return flags[text]


__all__ = [
    "API_VERSION",
    "Backend",
    "BackendError",
    "BackendInfo",
    "Capabilities",
    "StoredTensor",
    "check_dtype",
    "check_flag",
    "named_leaves",
    "named_params",
    "params_tree",
    "split_axis",
    "tree_leaves",
    "tree_map",
    "tree_unflatten",
]
