"""Mistakes in how weights lie in memory: which slice is which head, which matrix is transposed, which bias is there."""

from collections.abc import Callable
from typing import Any

from gpt2spec.ops import Tensor, TensorOps
from gpt2spec_conformance.mutants.fault import Mutant

HEADS = "c_attn's output is queries, keys, values side by side, each head by head (TensorOps.split_heads)"
MERGED = "[B, H, T, d] -> [B, T, H, d] -> [B, T, D] (TensorOps.merge_heads)"
PROJECTION = "x W + b with W stored [in, out], in every projection (TensorOps.linear, parameters.py)"
KILLED_BY = "model.logits.probe.L1"
Heads = tuple[Tensor, Tensor, Tensor]


def _not_transposed(original: Any, ops: TensorOps, x: Tensor) -> Tensor:
    B, H, T, d = x.shape
    return ops.reshape(x, (B, T, H * d))


def _reshaped_heads(original: Any, ops: TensorOps, x: Tensor, n_head: int) -> Heads:
    B, T, width = x.shape
    D = width // 3
    q, k, v = (ops.reshape(x[:, :, i * D : (i + 1) * D], (B, n_head, T, D // n_head)) for i in range(3))
    return q, k, v


def _merged_width_first(original: Any, ops: TensorOps, x: Tensor) -> Tensor:
    B, H, T, d = x.shape
    return ops.reshape(ops.permute_dims(x, (0, 2, 3, 1)), (B, T, H * d))


def projecting(
    which: Callable[[int, int], bool], change: Callable[[TensorOps, Tensor, Tensor], tuple[Tensor, Tensor]]
) -> Callable[..., Tensor]:
    """Replaces weights [in, out] of `linear` that `which(in, out)` selects by `change(ops, weight, bias)`."""

    def linear(original: Any, ops: TensorOps, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if which(*weight.shape):
            weight, bias = change(ops, weight, bias)
        return original(x, weight, bias)

    return linear


def _is_qkv(rows: int, columns: int) -> bool:
    return columns == 3 * rows


def _is_any(rows: int, columns: int) -> bool:
    return True


def _is_output(rows: int, columns: int) -> bool:
    return columns == rows


def _is_up(rows: int, columns: int) -> bool:
    return columns == 4 * rows


def _is_down(rows: int, columns: int) -> bool:
    return rows == 4 * columns


def _transposed(ops: TensorOps, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return ops.permute_dims(weight, (1, 0)), bias


def _refilled(ops: TensorOps, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Reads [out, in] as a loader does that only reshapes."""
    rows, columns = weight.shape
    return ops.reshape(ops.permute_dims(weight, (1, 0)), (rows, columns)), bias


def _without_bias(ops: TensorOps, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return weight, 0.0 * bias


def _bias_twice(ops: TensorOps, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return weight, 2.0 * bias


def _bias_reordered(ops: TensorOps, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    D = weight.shape[0]
    return weight, ops.concat([bias[2 * D :], bias[: 2 * D]], 0)


def _value_bias_only(ops: TensorOps, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    D = weight.shape[0]
    return weight, ops.concat([0.0 * bias[: 2 * D], bias[2 * D :]], 0)


def _heads(name: str, summary: str, replacement: Callable[..., Heads]) -> Mutant:
    return Mutant(name, summary, HEADS, KILLED_BY, ops={"split_heads": replacement})


def _reordered(name: str, summary: str, change: Callable[[Tensor, Tensor, Tensor], Heads]) -> Mutant:
    def split_heads(original: Any, ops: TensorOps, x: Tensor, n_head: int) -> Heads:
        return change(*original(x, n_head))

    return _heads(name, summary, split_heads)


def _split(name: str, summary: str, shape: Callable[[int, int], tuple[int, ...]], axes: tuple[int, ...]) -> Mutant:
    """Splits heads by another shape, [B, T, *shape(n_head, d)], permuted to [3, B, H, T, d]."""

    def split_heads(original: Any, ops: TensorOps, x: Tensor, n_head: int) -> Heads:
        B, T, width = x.shape
        x = ops.permute_dims(ops.reshape(x, (B, T, *shape(n_head, width // 3 // n_head))), axes)
        return x[0], x[1], x[2]

    return _heads(name, summary, split_heads)


def _merge(name: str, summary: str, replacement: Callable[..., Tensor]) -> Mutant:
    return Mutant(name, summary, MERGED, KILLED_BY, ops={"merge_heads": replacement})


def _linear(name: str, summary: str, which: Callable[[int, int], bool], change: Any) -> Mutant:
    return Mutant(name, summary, PROJECTION, KILLED_BY, ops={"linear": projecting(which, change)})


MUTANTS = [
    _reordered("heads-q-k-swapped", "queries and keys exchanged", lambda q, k, v: (k, q, v)),
    _reordered("heads-q-v-swapped", "queries and values exchanged", lambda q, k, v: (v, k, q)),
    _reordered("heads-k-v-swapped", "keys and values exchanged", lambda q, k, v: (q, v, k)),
    _split(
        "heads-interleaved",
        "c_attn's output read as [H, 3, d] (GPT-NeoX, BLOOM)",
        lambda H, d: (H, 3, d),
        (3, 0, 2, 1, 4),
    ),
    _split(
        "heads-innermost",
        "a head takes every H-th column, not d in a row",
        lambda H, d: (3, d, H),
        (2, 0, 4, 1, 3),
    ),
    _split(
        "heads-triples",
        "queries, keys and values alternate column by column",
        lambda H, d: (H, d, 3),
        (4, 0, 2, 1, 3),
    ),
    _heads("heads-not-transposed", "heads split by a reshape alone: positions and heads mix", _reshaped_heads),
    _merge("merge-not-transposed", "heads merged by a reshape alone: positions and heads mix", _not_transposed),
    _merge("merge-width-first", "heads merged column by column, not head by head", _merged_width_first),
    _linear("attention-c-proj-transposed", "attention's output projection is transposed", _is_output, _transposed),
    _linear("mlp-c-fc-transposed", "the MLP's first matrix read as [out, in]", _is_up, _refilled),
    _linear("mlp-c-proj-transposed", "the MLP's second matrix read as [out, in]", _is_down, _refilled),
    _linear("c-attn-transposed", "c_attn's matrix read as [out, in]", _is_qkv, _refilled),
    _linear("no-biases", "no projection has a bias (nanoGPT's bias=False)", _is_any, _without_bias),
    _linear("c-attn-no-bias", "c_attn without its bias", _is_qkv, _without_bias),
    _linear(
        "c-attn-value-bias-only", "c_attn's bias for values alone (Whisper drops the keys')", _is_qkv, _value_bias_only
    ),
    _linear("c-attn-bias-order", "c_attn's bias in the order v, q, k", _is_qkv, _bias_reordered),
    _linear("attention-c-proj-no-bias", "attention's output projection without its bias", _is_output, _without_bias),
    _linear("mlp-c-fc-no-bias", "the MLP's first projection without its bias", _is_up, _without_bias),
    _linear("mlp-c-proj-no-bias", "the MLP's second projection without its bias", _is_down, _without_bias),
    _linear("projection-bias-twice", "every projection adds its bias twice", lambda rows, columns: True, _bias_twice),
    _linear(
        "residual-bias-twice",
        "the biases of output projections are added twice, as by tensor parallelism of two",
        lambda rows, columns: rows >= columns,
        _bias_twice,
    ),
]
