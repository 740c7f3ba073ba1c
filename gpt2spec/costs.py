"""This module computes, without measuring, what a GPT-2 costs in parameters, operations and memory.

Symbols: L layers, D width, V vocabulary, T positions of a sequence. A multiplication and an addition are two
operations. Sources: Kaplan et al. 2020, table 1; Chowdhery et al. 2022 (PaLM), appendix B.
"""

from dataclasses import dataclass

from gpt2spec.config import GPT2Config
from gpt2spec.errors import ConfigError, InputError, nearest
from gpt2spec.parameters import Weight, count_parameters, is_layer_norm, weight_table

BYTES = {"float32": 4, "bfloat16": 2, "float64": 8}
"""The bytes of one value, for each dtype that a backend may compute in."""


@dataclass(frozen=True)
class ParameterCounts:
    """How many values the weights have.

    Attributes:
        total: all values; the tied head is counted once, as the token embedding.
        matrices: the values of weights of rank >= 2, which `decay="matrices"` decays.
        without_embeddings: all values except those of the token and position embeddings.
    """

    total: int
    matrices: int
    without_embeddings: int


@dataclass(frozen=True)
class Memory:
    """The bytes held in training or decoding with one compute dtype; activations are not counted.

    Attributes:
        weights: the parameters, in float32, or float64 if that is the compute dtype.
        cast_weights: their copy in the compute dtype; layer norms are not cast.
        gradients: one value for each parameter, in the parameters' dtype.
        adamw: the two moments of AdamW, in the parameters' dtype.
        cache_per_token: the keys and values of one position of one row, 2 L D values in the compute dtype.
    """

    weights: int
    cast_weights: int
    gradients: int
    adamw: int
    cache_per_token: int


def parameter_counts(config: GPT2Config) -> ParameterCounts:
    """Count the parameters exactly, from the weight table."""
    table = weight_table(config)
    return ParameterCounts(
        total=count_parameters(config),
        matrices=sum(weight.size for weight in table if weight.is_matrix),
        without_embeddings=sum(weight.size for weight in table if not _is_embedding(weight)),
    )


def matmul_parameters(config: GPT2Config) -> int:
    """12 L D^2 + V D: the number of parameters that every token is multiplied with.

    These are the projections and the tied head; an embedding lookup multiplies nothing.
    """
    projections = sum(w.size for w in weight_table(config) if w.is_matrix and not _is_embedding(w))
    return projections + config.vocab_size * config.n_embd


def forward_flops_per_token(config: GPT2Config, context: int) -> int:
    """2 x matmul parameters + 4 T D L: the operations for one token of a sequence of T = `context`.

    The second term counts Q K^T and the weighted sum of V, 2 T D each in every layer, over all T keys; a kernel that
    skips masked keys needs about half of it. Norms, GELU, softmax and biases are left out. Raises `InputError` where
    the model has fewer positions.
    """
    if not 1 <= context <= config.n_ctx:
        raise InputError(f"a sequence of this model has from 1 to {config.n_ctx} positions, not {context}")
    return 2 * matmul_parameters(config) + 4 * context * config.n_embd * config.n_layer


def training_flops_per_token(config: GPT2Config, context: int) -> int:
    """Three times the operations of the forward pass: each product has two gradients, each as costly as the product."""
    return 3 * forward_flops_per_token(config, context)


def memory(config: GPT2Config, dtype: str) -> Memory:
    """The bytes of the arrays of a model that computes in `dtype`, by the precision policy of this project."""
    if dtype not in BYTES:
        raise ConfigError(f"there is no dtype {dtype!r}{nearest(dtype, BYTES)}; choose from {', '.join(BYTES)}")
    total = count_parameters(config)
    kept = max(BYTES[dtype], BYTES["float32"])
    cast = sum(weight.size for weight in weight_table(config) if not is_layer_norm(weight.name.split(".")))
    return Memory(
        weights=kept * total,
        cast_weights=BYTES[dtype] * cast if BYTES[dtype] != kept else 0,
        gradients=kept * total,
        adamw=2 * kept * total,
        cache_per_token=BYTES[dtype] * 2 * config.n_layer * config.n_embd,
    )


def _is_embedding(weight: Weight) -> bool:
    return weight.name in ("wte.weight", "wpe.weight")
