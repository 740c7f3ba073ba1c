"""What a GPT-2 costs: parameters, floating-point operations, memory. Arithmetic only; nothing is measured.

Symbols: L layers, D width, V vocabulary, T positions of a sequence. A multiplication and an addition are two
operations. Sources: Kaplan et al. 2020, table 1; Chowdhery et al. 2022 (PaLM), appendix B.
"""

from dataclasses import dataclass

from gpt2spec.config import GPT2Config
from gpt2spec.errors import ConfigError, InputError, nearest
from gpt2spec.parameters import Weight, count_parameters, is_layer_norm, weight_table

BYTES = {"float32": 4, "bfloat16": 2, "float64": 8}
"""Bytes of one value of each dtype that a backend may compute in."""


@dataclass(frozen=True)
class ParameterCounts:
    """How many values the weights have.

    Attributes:
        total: all of them; the tied head is counted once, as the token embedding.
        matrices: those of rank >= 2, which `decay="matrices"` decays.
        without_embeddings: all but the token and position embeddings.
    """

    total: int
    matrices: int
    without_embeddings: int


@dataclass(frozen=True)
class Memory:
    """Bytes held while training or decoding, computing in one dtype; activations are not counted.

    Attributes:
        weights: the parameters, in float32 (float64 where that is computed in).
        cast_weights: their copy in the compute dtype; layer norms are not cast.
        gradients: one value a parameter, in the parameters' dtype.
        adamw: the two moments of AdamW, in the parameters' dtype.
        cache_per_token: keys and values of one position of one row, in the compute dtype: 2 L D values.
    """

    weights: int
    cast_weights: int
    gradients: int
    adamw: int
    cache_per_token: int


def parameter_counts(config: GPT2Config) -> ParameterCounts:
    """Exact counts, from the weight table."""
    table = weight_table(config)
    return ParameterCounts(
        total=count_parameters(config),
        matrices=sum(weight.size for weight in table if weight.is_matrix),
        without_embeddings=sum(weight.size for weight in table if not _is_embedding(weight)),
    )


def matmul_parameters(config: GPT2Config) -> int:
    """Parameters that every token is multiplied with: 12 L D^2 + V D.

    These are the projections and the tied head; looking up an embedding multiplies nothing.
    """
    projections = sum(w.size for w in weight_table(config) if w.is_matrix and not _is_embedding(w))
    return projections + config.vocab_size * config.n_embd


def forward_flops_per_token(config: GPT2Config, context: int) -> int:
    """2 x matmul parameters + 4 T D L, for one token of a sequence of T = `context`.

    The second term is Q K^T and the weighted sum of V, 2 T D each in every layer, over all T keys; a kernel
    that leaves out the masked ones needs about half of that term. Norms, GELU, softmax and biases are left out.
    Raises `InputError` where the model has fewer positions.
    """
    if not 1 <= context <= config.n_ctx:
        raise InputError(f"a sequence of this model has from 1 to {config.n_ctx} positions, not {context}")
    return 2 * matmul_parameters(config) + 4 * context * config.n_embd * config.n_layer


def training_flops_per_token(config: GPT2Config, context: int) -> int:
    """Three times the forward pass: each product has two gradients, each as dear as the product itself."""
    return 3 * forward_flops_per_token(config, context)


def memory(config: GPT2Config, dtype: str) -> Memory:
    """Bytes of the arrays of a model that computes in `dtype`, by the precision policy of this project."""
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
