"""Two sets of weights, since some mistakes show only in one of them.

`init` is a freshly initialised GPT-2: small weights, biases of 0 and gains of 1, so that a forgotten bias does not
show, but a layer norm's epsilon does. `probe` has large weights, random biases and random gains: attention is
sharp, every weight matters, and no two paths through the model are the same.
"""

import math

import numpy as np

from gpt2spec.config import GPT2Config
from gpt2spec.errors import ConfigError, nearest
from gpt2spec.parameters import HostParams, Weight, initial_parameters, weight_table
from gpt2spec.random import generator

WEIGHT_SETS = ("init", "probe")


def weight_set(name: str, config: GPT2Config, seed: int = 1) -> HostParams:
    """The float32 weights called `name`, for a model of any (small) shape."""
    if name not in WEIGHT_SETS:
        raise ConfigError(
            f"there is no weight set {name!r}{nearest(name, WEIGHT_SETS)}; there are {' and '.join(WEIGHT_SETS)}"
        )
    return initial_parameters(config, seed) if name == "init" else probe_parameters(config, seed)


def probe_parameters(config: GPT2Config, seed: int = 1) -> HostParams:
    """Draws matrices N(0, 1.5 / sqrt(input width)), gains N(1, 0.3) and biases N(0, 0.3), each from its own stream."""

    def draw(row: int, weight: Weight) -> np.ndarray:
        width = config.n_embd if weight.name.startswith("w") else weight.shape[0]  # embeddings: their rows'
        std = 1.5 / math.sqrt(width) if weight.is_matrix else 0.3
        values = generator(seed, "probe", row).standard_normal(weight.shape)
        return (weight.mean + std * values).astype(np.float32)

    return {weight.name: draw(row, weight) for row, weight in enumerate(weight_table(config))}
