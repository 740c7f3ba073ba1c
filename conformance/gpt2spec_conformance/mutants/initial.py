"""Mistakes in fresh weights."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpt2spec.config import GPT2Config
from gpt2spec.parameters import HostParams, Weight
from gpt2spec.random import generator
from gpt2spec_conformance.mutants.fault import Mutant

SPEC = "N(0, 0.02), c_proj by 1/sqrt(2 L), biases 0, gains 1 (parameters.weight_table)"
STREAMS = "each weight draws from a stream of its own, keyed by the seed (parameters.initial_parameters)"
KILLED_BY = "initial.statistics.brief"


def _unscaled(suffix: str) -> Callable[[GPT2Config, Weight], float]:
    return lambda config, weight: config.initializer_range if weight.name.endswith(suffix) else weight.std


def _one_residual(config: GPT2Config, weight: Weight) -> float:
    return weight.std * math.sqrt(2.0) if weight.name.endswith("c_proj.weight") else weight.std


def _all_scaled(config: GPT2Config, weight: Weight) -> float:
    residual_std = config.initializer_range / math.sqrt(2 * config.n_layer)
    return residual_std if weight.name.startswith("h.") and weight.is_matrix else weight.std


def _embeddings_exchanged(config: GPT2Config, weight: Weight) -> float:
    own = {"wte.weight": config.wpe_initializer_range, "wpe.weight": config.initializer_range}
    return own.get(weight.name, weight.std)


def _unit_embeddings(config: GPT2Config, weight: Weight) -> float:
    return 1.0 if weight.name in ("wte.weight", "wpe.weight") else weight.std


def _by_width(config: GPT2Config, weight: Weight) -> float:
    return 1.0 / math.sqrt(weight.shape[0]) if weight.name.startswith("h.") and weight.is_matrix else weight.std


def _random_biases(config: GPT2Config, weight: Weight) -> float:
    return config.initializer_range if weight.name.endswith("bias") else weight.std


def _drawn(draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]) -> Callable[..., HostParams]:
    """Draws matrices with the right deviation from another distribution of mean 0 and variance 1."""

    def initial_parameters(original: Any, config: GPT2Config, seed: int) -> HostParams:
        params = original(config, seed)
        r = generator(seed, "mutant")
        return {name: (x.std() * draw(r, x.shape)).astype(x.dtype) if x.ndim == 2 else x for name, x in params.items()}

    return initial_parameters


def _uniform(r: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return r.uniform(-math.sqrt(3.0), math.sqrt(3.0), shape)


def _truncated(r: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    values = r.standard_normal(shape)
    while (outside := np.abs(values) > 2.0).any():
        values[outside] = r.standard_normal(int(outside.sum()))
    return values / values.std()


def _zero_gains(original: Any, config: GPT2Config, seed: int) -> HostParams:
    return {name: 0.0 * x if ".ln_" in name else x for name, x in original(config, seed).items()}


def _one_stream(original: Any, seed: int, purpose: str, *index: int) -> np.random.Generator:
    return original(seed, purpose, *(() if purpose == "parameters" else index))


def _table(
    name: str, summary: str, change: Callable[[GPT2Config, Weight], float], killed_by: str = KILLED_BY
) -> Mutant:
    """Draws weights with other deviations, `change(config, weight)`."""

    def weight_table(original: Any, config: GPT2Config) -> tuple[Weight, ...]:
        return tuple(weight._replace(std=change(config, weight)) for weight in original(config))

    return Mutant(name, summary, SPEC, killed_by, core={"gpt2spec.parameters.weight_table": weight_table})


def _values(name: str, summary: str, replacement: Callable[..., HostParams]) -> Mutant:
    return Mutant(name, summary, SPEC, KILLED_BY, subject={"initial_parameters": replacement})


MUTANTS = [
    _table(
        "initial-residual-unscaled", "residual projections are not scaled by 1/sqrt(2 L)", _unscaled("c_proj.weight")
    ),
    _table(
        "initial-attention-unscaled",
        "of the residual projections only the MLP's is scaled",
        _unscaled("attn.c_proj.weight"),
    ),
    _table(
        "initial-mlp-unscaled", "of the residual projections only attention's is scaled", _unscaled("mlp.c_proj.weight")
    ),
    _table("initial-residual-sqrt-l", "residual projections scaled by 1/sqrt(L) for 1/sqrt(2 L)", _one_residual),
    _table("initial-all-scaled", "every matrix of a block is scaled as the residual projections are", _all_scaled),
    _table(
        "initial-embeddings-exchanged",
        "the deviations of token and position embeddings are exchanged",
        _embeddings_exchanged,
        "initial.statistics.wpe",
    ),
    _table("initial-embeddings-unit", "embeddings from N(0, 1), torch's default", _unit_embeddings),
    _table("initial-by-width", "matrices from N(0, 1/width), not N(0, 0.02)", _by_width),
    _table("initial-biases-random", "biases are drawn as well", _random_biases),
    _values("initial-uniform", "uniform for normal", _drawn(_uniform)),
    _values("initial-truncated", "normal truncated at two deviations", _drawn(_truncated)),
    _values("initial-gains-zero", "layer norm gains start at 0", _zero_gains),
    Mutant(
        "initial-one-stream",
        "every weight begins with the same numbers: the seed is set anew for each",
        STREAMS,
        "initial.streams",
        core={"gpt2spec.random.generator": _one_stream},
    ),
    Mutant(
        "initial-seed-ignored",
        "the seed is ignored",
        STREAMS,
        "initial.streams",
        subject={"initial_parameters": lambda original, config, seed: original(config, 0)},
    ),
]
