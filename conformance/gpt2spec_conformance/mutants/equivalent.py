"""These variants look like mistakes and are none: no case may fail. `spec` says why they cannot be distinguished.

Some are the same function by another formula, others change what no output depends on.
"""

import math
from collections.abc import Callable
from typing import Any

from gpt2spec.ops import AdamWScalars, Tensor, TensorOps
from gpt2spec_conformance.mutants.attention import filled, masked_softmax, spelled
from gpt2spec_conformance.mutants.fault import Mutant
from gpt2spec_conformance.mutants.layout import projecting
from gpt2spec_conformance.mutants.optimizer import Moved, direction, each, moments


def _definition(original: Any, ops: TensorOps, *args: Any, **settings: Any) -> Tensor:
    return TensorOps.causal_attention(ops, *args, **settings)


def _loop(original: Any, ops: TensorOps, block: Any, x: Tensor, *stacked: Any, **shared: Any) -> Any:
    return TensorOps.scan_blocks(ops, block, x, *stacked, **shared)


def _in_halves(original: Any, ops: TensorOps, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    half = weight.shape[0] // 2
    return ops.matmul(x[..., half:], weight[half:]) + (ops.matmul(x[..., :half], weight[:half]) + bias)


def _bias_as_input(original: Any, ops: TensorOps, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Computes [x, 1] [W; b]."""
    one = 0.0 * x[..., :1] + 1.0
    return ops.matmul(ops.concat([x, one], -1), ops.concat([weight, ops.reshape(bias, (1, -1))], 0))


def _key_bias_dropped(ops: TensorOps, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    D = weight.shape[0]
    return weight, ops.concat([bias[:D], 0.0 * bias[D : 2 * D], bias[2 * D :]], 0)


def _queries_scaled(original: Any, ops: TensorOps, q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
    return spelled(divisor=lambda q: 1.0)(original, ops, q / math.sqrt(q.shape[3]), k, v, **settings)


def _scores_shifted(ops: TensorOps, scores: Tensor, visible: Tensor) -> Tensor:
    return masked_softmax(ops, scores + 3.0, visible)


def _gelu_by_sigmoid(original: Any, ops: TensorOps, x: Tensor) -> Tensor:
    u = math.sqrt(2.0 / math.pi) * (x + 0.044715 * (x * x * x))
    small = ops.exp(ops.where(u > 0.0, -2.0 * u, 2.0 * u))  # never above 1
    return x * ops.where(u > 0.0, 1.0, small) / (1.0 + small)


def _decay_first(ops: TensorOps, p: Tensor, g: Tensor, m: Tensor, v: Tensor, decay: float, s: AdamWScalars) -> Moved:
    m, v = moments(g, m, v, s)
    return p * (1.0 - s.lr * decay) - s.lr * direction(ops, m, v, s), m, v


def _heads_reversed(original: Any, ops: TensorOps, q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
    """Reverses the columns of both the queries and the keys of each head."""
    d = q.shape[3]
    backwards = d - 1 - ops.arange(d)
    return original(ops.take(q, backwards, 3), ops.take(k, backwards, 3), v, **settings)


def _right(name: str, summary: str, reason: str, **replacements: Callable[..., Any]) -> Mutant:
    return Mutant(name, summary, reason, ops=replacements, right=True)


MUTANTS = [
    _right(
        "right-fill-1e4",
        "masked scores are -1e4, not -inf",
        "exp(-1e4) is 0 in every dtype, as long as scores stay below 1e4 by far",
        causal_attention=spelled(normalise=filled(-1e4)),
    ),
    _right(
        "right-attention-definition",
        "attention by its definition, not by a fused kernel",
        "a fused kernel computes the definition (TensorOps.causal_attention)",
        causal_attention=_definition,
    ),
    _right(
        "right-layers-loop",
        "a loop over the layers for a scan",
        "a scan is a loop (TensorOps.scan_blocks)",
        scan_blocks=_loop,
    ),
    _right(
        "right-sums-reordered",
        "products of matrices summed in two halves, the second first",
        "the order of a sum is nobody's promise",
        linear=_in_halves,
    ),
    _right(
        "right-bias-as-input",
        "the bias is one more row of the weight",
        "x W + b = [x, 1] [W; b]",
        linear=_bias_as_input,
    ),
    _right(
        "right-queries-scaled",
        "queries are divided by sqrt(d) before their product with the keys",
        "(q / sqrt(d)) k = q k / sqrt(d)",
        causal_attention=_queries_scaled,
    ),
    _right(
        "right-scores-shifted",
        "3 is added to every score",
        "softmax does not see what is added to all scores of a query",
        causal_attention=spelled(normalise=_scores_shifted),
    ),
    _right(
        "right-head-columns-reversed",
        "the columns of queries and keys within a head in reverse order",
        "a scalar product does not depend on the order of its terms",
        causal_attention=_heads_reversed,
    ),
    _right(
        "right-key-bias-dropped",
        "the bias of keys is dropped",
        "it adds q b to all scores of a query, which softmax ignores; its gradient is 0",
        linear=projecting(lambda rows, columns: columns == 3 * rows, _key_bias_dropped),
    ),
    _right(
        "right-gelu-sigmoid",
        "GELU as x sigmoid(2 u)",
        "(1 + tanh(u)) / 2 = sigmoid(2 u)",
        gelu_tanh=_gelu_by_sigmoid,
    ),
    _right(
        "right-decay-first",
        "decay before the update, theta (1 - lr decay) - lr direction (torch)",
        "the direction does not depend on theta; after the update it would be another (decay-after-update)",
        adamw_update=each(_decay_first),
    ),
]
