"""The weight table of a GPT-2 has the names, shapes and initial distribution of its weights.

On the host, the parameters are a flat `dict[str, np.ndarray]` with the names of OpenAI's and Hugging
Face's checkpoints. Projections are stored [in, out] (OpenAI's "conv1d"), and the output head has no entry:
it is `wte.weight` transposed.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt2spec.config import GPT2Config
from gpt2spec.errors import InputError, nearest
from gpt2spec.random import generator
from gpt2spec.tree import named_leaves

HostParams = dict[str, np.ndarray]


class Weight(NamedTuple):
    """A row of the weight table.

    Attributes:
        name: the name in checkpoints of OpenAI and Hugging Face, such as `h.0.attn.c_attn.weight`.
        shape: the shape on the host.
        mean: the mean of the initial values: 1 for layer norm gains, otherwise 0.
        std: the standard deviation of the initial values; 0 means that they are constant.
    """

    name: str
    shape: tuple[int, ...]
    mean: float
    std: float

    @property
    def size(self) -> int:
        """The number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def is_matrix(self) -> bool:
        """Whether the rank is at least 2, so that `decay="matrices"` decays the weight."""
        return len(self.shape) >= 2


def is_layer_norm(path: Sequence[str]) -> bool:
    """Whether a name, split at its dots, belongs to a layer norm: `ln_1`, `ln_2` or `ln_f`."""
    return any(word.startswith("ln_") for word in path)


SPLIT_AXIS = {
    "wte.weight": 0,
    "c_attn.weight": 1,
    "c_attn.bias": 0,
    "c_fc.weight": 1,
    "c_fc.bias": 0,
    "c_proj.weight": 0,
}
"""The axis along which tensor parallelism splits a weight (Shoeybi et al. 2019, Megatron-LM).

The first projection of attention and of the MLP is split by its outputs, which are heads and hidden units; the second
is split by its inputs, which are the same. Their products are added once. Other weights are whole on every device.
"""


def split_axis(path: Sequence[str]) -> int | None:
    """The axis along which tensor parallelism splits a weight, given its name split at the dots; None for whole."""
    return SPLIT_AXIS.get(".".join(path[-2:]))


def weight_table(config: GPT2Config) -> tuple[Weight, ...]:
    """Every weight of the model, in checkpoint order.

    Matrices start as N(0, 0.02); the two projections that write into the residual stream are scaled by
    1/sqrt(2 L), the number of such writes (GPT-2 paper, section 2.3); biases start at 0, gains at 1.
    """
    D, V, T = config.n_embd, config.vocab_size, config.n_ctx
    std = config.initializer_range
    residual_std = std / (2 * config.n_layer) ** 0.5

    def block(i: int) -> Iterator[Weight]:
        yield Weight(f"h.{i}.ln_1.weight", (D,), 1, 0)
        yield Weight(f"h.{i}.ln_1.bias", (D,), 0, 0)
        yield Weight(f"h.{i}.attn.c_attn.weight", (D, 3 * D), 0, std)
        yield Weight(f"h.{i}.attn.c_attn.bias", (3 * D,), 0, 0)
        yield Weight(f"h.{i}.attn.c_proj.weight", (D, D), 0, residual_std)
        yield Weight(f"h.{i}.attn.c_proj.bias", (D,), 0, 0)
        yield Weight(f"h.{i}.ln_2.weight", (D,), 1, 0)
        yield Weight(f"h.{i}.ln_2.bias", (D,), 0, 0)
        yield Weight(f"h.{i}.mlp.c_fc.weight", (D, 4 * D), 0, std)
        yield Weight(f"h.{i}.mlp.c_fc.bias", (4 * D,), 0, 0)
        yield Weight(f"h.{i}.mlp.c_proj.weight", (4 * D, D), 0, residual_std)
        yield Weight(f"h.{i}.mlp.c_proj.bias", (D,), 0, 0)

    return (
        Weight("wte.weight", (V, D), 0, std),
        Weight("wpe.weight", (T, D), 0, config.wpe_initializer_range),
        *(weight for i in range(config.n_layer) for weight in block(i)),
        Weight("ln_f.weight", (D,), 1, 0),
        Weight("ln_f.bias", (D,), 0, 0),
    )


def count_parameters(config: GPT2Config) -> int:
    """V D + T D + L (12 D^2 + 13 D) + 2 D: the number of parameters."""
    return sum(weight.size for weight in weight_table(config))


def initial_parameters(config: GPT2Config, seed: int = 0) -> HostParams:
    """Draw initial float32 weights, which have the same bits on every machine and for every backend.

    Each weight draws from its own stream, keyed by (seed, row of the weight table), so that changing one shape does not
    change the other weights.
    """

    def draw(row: int, weight: Weight) -> np.ndarray:
        if weight.std == 0:
            return np.full(weight.shape, weight.mean, np.float32)
        values = generator(seed, "parameters", row).standard_normal(weight.shape, dtype=np.float32)
        values *= np.float32(weight.std)
        return values

    return {weight.name: draw(row, weight) for row, weight in enumerate(weight_table(config))}


def check_parameters(config: GPT2Config, params: HostParams) -> HostParams:
    """Return `params` in the order of the weight table, on which gradients and moments rely.

    Raises `InputError` unless they are exactly the weights of `config`, as float arrays in the right shapes.
    """
    table = {weight.name: weight.shape for weight in weight_table(config)}
    missing = [name for name in table if name not in params]
    unknown = [name for name in params if name not in table]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise InputError(f"GPT-2 has no weight {unknown[0]!r}{more}{nearest(unknown[0], table)}")
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"the weight {missing[0]!r}{more} is missing: {len(table)} weights are expected")
    for name, shape in table.items():
        dtype = getattr(params[name], "dtype", type(params[name]).__name__)
        if not isinstance(params[name], np.ndarray) or not np.issubdtype(dtype, np.floating):
            raise InputError(f"the weight {name!r} is {dtype}; a NumPy array of floats is expected")
        found = tuple(params[name].shape)
        if found != shape:
            raise InputError(f"the weight {name!r} has shape {list(found)}; {list(shape)} is expected")
    return {name: params[name] for name in table}


_CHECKPOINT_ORDER = [
    *("wte", "wpe", "h", "ln_f"),
    *("ln_1", "attn", "ln_2", "mlp"),
    *("c_attn", "c_fc", "c_proj"),
    *("weight", "bias"),
]
"""The words of weights' names, in the order of a checkpoint."""


def params_tree(named: dict[str, Any]) -> dict[str, Any]:
    """Turn values by name into a tree {"wte", "wpe", "ln_f", "blocks"}, in which `blocks` is a list of layers.

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
    """Undo `params_tree`. The order is that of checkpoints, even if a framework has sorted the keys of dicts."""

    def place(name: str) -> list[int]:
        return [int(word) if word.isdigit() else _CHECKPOINT_ORDER.index(word) for word in name.split(".")]

    tree = {"h" if name == "blocks" else name: node for name, node in params.items()}
    named = {".".join(path): leaf for path, leaf in named_leaves(tree)}
    return {name: named[name] for name in sorted(named, key=place)}
