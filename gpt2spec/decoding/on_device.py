"""This module does in `TensorOps` what `sampling` does on the host, so that a decoding step never leaves the device.

It computes in the dtype of the logits, usually float32. Where a running sum is within rounding of top-p or of the
uniform number, the host, which computes in float64, may therefore choose another token.
"""

import math

from gpt2spec.decoding.options import GenerateOptions
from gpt2spec.ops import Tensor, TensorOps

COLDEST = 1e-30
"""A much lower temperature would be 0 in float32; at this one, all but the likeliest tokens already vanish."""


def choose(ops: TensorOps, logits: Tensor, uniform: Tensor, options: GenerateOptions) -> Tensor:
    """The next tokens, int32 [B], from logits [B, V] and one uniform number for each row [B]."""
    if options.greedy:
        return ops.argmax(logits, -1)
    return inverse_cdf(ops, filtered_probabilities(ops, logits, options), uniform)


def penalised(ops: TensorOps, logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits [B, V] in which the tokens that `seen` [B, V] marks are made less likely."""
    if penalty == 1.0:
        return logits
    return ops.where(seen, ops.where(logits > 0.0, logits / penalty, logits * penalty), logits)


def filtered_probabilities(ops: TensorOps, logits: Tensor, options: GenerateOptions) -> Tensor:
    """Probabilities [B, V] after temperature, top-k, top-p and min-p in this order; 0 for a token that was dropped."""
    scaled = (logits - ops.max(logits, -1, keepdims=True)) / max(options.temperature, COLDEST)
    if not options.filters:
        return ops.softmax(scaled)
    order = ops.argsort(logits, -1, descending=True)  # [B, V], ids with the likeliest first
    rank = ops.reshape(ops.arange(logits.shape[-1]), (1, -1))
    scaled = ops.take_along_axis(scaled, order, -1)
    if options.top_k is not None:
        scaled = ops.where(rank < options.top_k, scaled, -math.inf)
    probabilities = ops.softmax(scaled)
    kept = probabilities >= 0.0
    if options.top_p is not None and options.top_p < 1.0:
        running = ops.cumulative_sum(probabilities, -1)
        before = running - probabilities
        within = before < options.top_p if options.top_p_rule == "reach" else running <= options.top_p
        kept = ops.where(rank < 1, kept, within)
    if options.min_p is not None:
        kept = ops.where(probabilities >= options.min_p * probabilities[:, :1], kept, rank < 0)
    probabilities = ops.where(kept, probabilities, 0.0)
    back = ops.argsort(order, -1, descending=False)  # from ranks to ids
    return ops.take_along_axis(probabilities / ops.sum(probabilities, -1, keepdims=True), back, -1)


def inverse_cdf(ops: TensorOps, probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The lowest ids [B] at which the running sum of probabilities [B, V] exceeds `uniform` [B] times the total.

    There always is one, because in float32 a number below 1 times the total is less than the total. Devices that add
    in another order may, by rounding, increase the sum where a probability is 0; such tokens are never chosen.
    """
    running = ops.where(probabilities > 0.0, ops.cumulative_sum(probabilities, -1), 0.0)
    total = ops.max(running, -1, keepdims=True)
    passed = running > ops.reshape(uniform, (-1, 1)) * total
    found = ops.where(passed, ops.full(passed.shape, 1.0, ops.reduce_dtype), 0.0)
    return ops.argmax(found, -1)  # the lowest id among equals


def log_probability(ops: TensorOps, logits: Tensor, tokens: Tensor) -> Tensor:
    """log softmax(logits)[tokens]: the model's own log-probabilities [B] of tokens [B], from logits [B, V]."""
    return 0.0 - ops.cross_entropy(logits, tokens)
