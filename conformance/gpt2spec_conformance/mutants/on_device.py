"""Mistakes in choosing tokens on the device."""

import dataclasses
from collections.abc import Callable
from typing import Any

from gpt2spec.backend import Backend
from gpt2spec.decoding.options import GenerateOptions
from gpt2spec.ops import Tensor, TensorOps
from gpt2spec_conformance.mutants.fault import Mutant

FILTERS = "the device's probabilities are the host's, by id (decoding.on_device.filtered_probabilities)"
CHOICE = "the lowest id whose running sum exceeds u times the total (decoding.on_device.inverse_cdf)"
PENALTY = "positive logits in the text over the penalty, negative ones times it (decoding.on_device.penalised)"
LOGPROB = "the logarithm of the softmax of the logits themselves (decoding.on_device.log_probability)"
STEPS = "a row has random numbers and a text of its own, which new tokens join (decoding.chooser.OnDevice)"
Filter = Callable[[Any, TensorOps, Tensor, GenerateOptions], Tensor]


def _by_rank(original: Any, ops: TensorOps, logits: Tensor, options: GenerateOptions) -> Tensor:
    found = original(ops, logits, options)
    return ops.sort(found, -1, descending=True) if options.filters else found


def _sorted_back_by_order(original: Any, ops: TensorOps, logits: Tensor, options: GenerateOptions) -> Tensor:
    """Takes probabilities by the order itself where its inverse is meant."""
    found = original(ops, logits, options)
    if not options.filters:
        return found
    order = ops.argsort(logits, -1, descending=True)
    return ops.take_along_axis(ops.sort(found, -1, descending=True), order, -1)


def _ties_kept(original: Any, ops: TensorOps, logits: Tensor, options: GenerateOptions) -> Tensor:
    if options.top_k is None:
        return original(ops, logits, options)
    least = ops.sort(logits, -1, descending=True)[:, options.top_k - 1 : options.top_k]
    kept = ops.where(logits >= least, logits, -1e9)
    return original(ops, kept, dataclasses.replace(options, top_k=None))


def _not_normalised(original: Any, ops: TensorOps, logits: Tensor, options: GenerateOptions) -> Tensor:
    """Leaves what is dropped its share of 1."""
    found = original(ops, logits, options)
    whole = ops.softmax(logits / options.temperature)
    return ops.where(found > 0.0, whole, 0.0)


def _temperature_ignored(original: Any, ops: TensorOps, logits: Tensor, options: GenerateOptions) -> Tensor:
    return original(ops, logits, dataclasses.replace(options, temperature=1.0))


def _min_p_absolute(original: Any, ops: TensorOps, logits: Tensor, options: GenerateOptions) -> Tensor:
    if options.min_p is None:
        return original(ops, logits, options)
    found = original(ops, logits, dataclasses.replace(options, min_p=None))
    kept = ops.where(found >= options.min_p, found, ops.where(found >= ops.max(found, -1, keepdims=True), found, 0.0))
    return kept / ops.sum(kept, -1, keepdims=True)


def _other_rule(original: Any, ops: TensorOps, logits: Tensor, options: GenerateOptions) -> Tensor:
    return original(ops, logits, dataclasses.replace(options, top_p_rule="reach"))


def _reached(original: Any, ops: TensorOps, probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Finds where the running sum reaches the number, not where it exceeds it."""
    running = ops.cumulative_sum(probabilities, -1)
    below = running < ops.reshape(uniform, (-1, 1)) * ops.max(running, -1, keepdims=True)
    found = ops.where(below, 0.0 * probabilities, 1.0)
    return ops.argmax(found, -1)


def _of_one(original: Any, ops: TensorOps, probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Compares the running sum with the number itself, as if it ended at 1."""
    passed = ops.cumulative_sum(probabilities, -1) > ops.reshape(uniform, (-1, 1))
    return ops.argmax(ops.where(passed, 0.0 * probabilities + 1.0, 0.0), -1)


def _divided(original: Any, ops: TensorOps, logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    return ops.where(seen, logits / penalty, logits)


def _everything(original: Any, ops: TensorOps, logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    return original(ops, logits, logits == logits, penalty)


def _first_row_only(original: Any, ops: TensorOps, logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    shown = ops.where(seen, 0.0 * logits + 1.0, 0.0)
    return original(ops, logits, 0.0 * logits + shown[:1] > 0.0, penalty)


def _logit(original: Any, ops: TensorOps, logits: Tensor, tokens: Tensor) -> Tensor:
    shifted = logits - ops.max(logits, -1, keepdims=True)
    return ops.take_along_axis(shifted, ops.reshape(tokens, (-1, 1)), -1)[:, 0]


def _one_number(original: Any, ops: TensorOps, logits: Tensor, uniform: Tensor, options: GenerateOptions) -> Tensor:
    return original(ops, logits, 0.0 * uniform + uniform[:1], options)


def _text_forgotten(original: Any, backend: Backend, options: GenerateOptions) -> Callable[..., Any]:
    """Leaves the marks of what was seen as they were for the prompts."""
    compiled = original(backend, options)

    def run(seen: Tensor, logits: Tensor, uniform: Tensor) -> Any:
        kept = seen + 0.0  # the old state may be overwritten
        return kept, compiled(seen, logits, uniform)[1]

    return run


def _function(name: str, summary: str, spec: str, killed_by: str, **functions: Callable[..., Any]) -> Mutant:
    core = {f"gpt2spec.decoding.on_device.{function}": replacement for function, replacement in functions.items()}
    return Mutant(name, summary, spec, f"decode.device.{killed_by}", core=core)


def _filter(name: str, summary: str, replacement: Filter) -> Mutant:
    return _function(name, summary, FILTERS, "filters", filtered_probabilities=replacement)


def _draw(name: str, summary: str, replacement: Callable[..., Tensor]) -> Mutant:
    return _function(name, summary, CHOICE, "inverse-cdf", inverse_cdf=replacement)


def _penalty(name: str, summary: str, replacement: Callable[..., Tensor]) -> Mutant:
    return _function(name, summary, PENALTY, "penalty", penalised=replacement)


MUTANTS = [
    _filter("device-by-rank", "probabilities stand in the order of their size, not by id", _by_rank),
    _filter(
        "device-order-not-inverted", "they are put back by the order itself, not its inverse", _sorted_back_by_order
    ),
    _filter("device-ties-kept", "top-k keeps everything that equals the k-th", _ties_kept),
    _filter("device-not-normalised", "what is kept is not brought to a sum of 1", _not_normalised),
    _filter("device-temperature-ignored", "the device ignores the temperature", _temperature_ignored),
    _filter("device-min-p-absolute", "min-p is a probability, not a share of the largest", _min_p_absolute),
    _filter("device-openai-ignored", "the device knows one rule of top-p only", _other_rule),
    _draw(
        "device-sum-reached",
        "the running sum need not exceed the number: tokens without probability are drawn",
        _reached,
    ),
    _draw("device-total-of-one", "probabilities are taken to add up to 1", _of_one),
    _penalty("device-penalty-divides-all", "negative logits are divided, too", _divided),
    _penalty("device-penalty-everything", "all tokens are penalised", _everything),
    _penalty("device-penalty-shared", "all rows are penalised for the first one's text", _first_row_only),
    _function(
        "device-logprob-shifted",
        "the logit's distance from the largest one",
        LOGPROB,
        "logprobs",
        log_probability=_logit,
    ),
    _function("device-one-number", "all rows draw with the first one's number", STEPS, "generate", choose=_one_number),
    Mutant(
        "device-text-forgotten",
        "the device penalises the prompt's tokens only, not new ones",
        STEPS,
        "decode.device.generate",
        core={"gpt2spec.decoding.chooser._compiled_choice": _text_forgotten},
    ),
]
