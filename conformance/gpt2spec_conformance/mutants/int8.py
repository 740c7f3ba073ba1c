"""Mistakes in rounding weights to int8: any backend decodes with tensors that were rounded beforehand."""

from collections.abc import Callable
from typing import Any

import numpy as np

from gpt2spec.backend import Backend
from gpt2spec.ops import Tensor, TensorOps
from gpt2spec.parameters import HostParams
from gpt2spec.tree import Tree
from gpt2spec_conformance import int8
from gpt2spec_conformance.mutants.fault import Mutant

STEPS = "a step is a 127th of the largest weight of an output, weights are whole steps (gpt2spec_conformance.int8)"
LOOKUP = "only the head reads the embedding in whole steps (gpt2spec_conformance.int8)"
CAPABILITY = "a backend says what it rounds weights to in decoding (backend.Capabilities.decoding_weights)"
Rounding = Callable[[np.ndarray], np.ndarray]
"""A function from a weight [in, out] to the one that is used in its place."""


def per_output(weight: np.ndarray) -> np.ndarray:
    """Rounds a weight to whole steps of each output, as the definition does."""
    return int8.rounded(weight) * int8.steps(weight)


def _per_tensor(weight: np.ndarray) -> np.ndarray:
    step = int8.steps(weight).max()
    return np.rint(weight / step) * step


def _per_input(weight: np.ndarray) -> np.ndarray:
    return per_output(weight.T).T


def _cut_off(weight: np.ndarray) -> np.ndarray:
    step = int8.steps(weight)
    return np.trunc(weight / step) * step


def _wrapped(weight: np.ndarray) -> np.ndarray:
    step = int8.steps(weight) * 127.0 / 128.0
    return np.rint(weight / step).astype(np.int64).astype(np.int8) * step


def _zero_forgotten(weight: np.ndarray) -> np.ndarray:
    return (np.rint(weight / int8.steps(weight)) + 128.0) * int8.steps(weight)


def _least_to_most(weight: np.ndarray) -> np.ndarray:
    """Rounds to 255 steps from each output's least weight to its largest."""
    least = weight.min(0)
    step = np.maximum(weight.max(0) - least, 1e-12) / 255.0
    return np.rint((weight - least) / step) * step + least


def _four_bits(weight: np.ndarray) -> np.ndarray:
    step = int8.steps(weight) * 127.0 / 7.0
    return np.rint(weight / step) * step


def _steps_of_neighbour(weight: np.ndarray) -> np.ndarray:
    return int8.rounded(weight) * np.roll(int8.steps(weight), 1)


def decoding_with(blocks: Rounding, head: Rounding, lookup: Rounding | None) -> Callable[..., Tree]:
    """Replaces `decoding_params` by rounded matrices; `lookup` rounds what the embedding is read from, if given."""

    def decoding_params(original: Any, backend: Backend, params: Tree) -> Tree:
        host = backend.dump_params(params)
        used = {name: blocks(x) if _in_blocks(name, x) else x for name, x in host.items()}
        used["wte.weight"] = head(host["wte.weight"].T).T
        table = host["wte.weight"] if lookup is None else lookup(host["wte.weight"].T).T
        looked_up = original(backend.load_params(_float32({**host, "wte.weight": table})))
        return {**original(backend.load_params(_float32(used))), "table": looked_up["wte"]}

    return decoding_params


def _in_blocks(name: str, weight: np.ndarray) -> bool:
    return name.startswith("h.") and weight.ndim == 2


def _float32(params: HostParams) -> HostParams:
    return {name: np.ascontiguousarray(x, np.float32) for name, x in params.items()}


def _embed(original: Any, ops: TensorOps, params: Tree, tokens: Tensor, positions: Tensor) -> Tensor:
    """Reads the embedding from the table that was kept for it."""
    return original(ops, {**params, "wte": params.get("table", params["wte"])}, tokens, positions)


def _int8(
    name: str,
    summary: str,
    killed_by: str,
    blocks: Rounding = per_output,
    head: Rounding = per_output,
    lookup: Rounding | None = None,
    spec: str = STEPS,
    **settings: Any,
) -> Mutant:
    return Mutant(
        name,
        summary,
        spec,
        killed_by,
        core={"gpt2spec.model.embed": _embed},
        backend={"decoding_params": decoding_with(blocks, head, lookup)},
        **{"decoding_weights": "int8", **settings},
    )


def _everywhere(name: str, summary: str, killed_by: str, rounding: Rounding) -> Mutant:
    return _int8(name, summary, killed_by, rounding, rounding)


def _lookup(name: str, summary: str, rounding: Rounding) -> Mutant:
    return _int8(name, summary, "int8.embedding", lookup=rounding, spec=LOOKUP)


REFERENCE = _int8("int8", "weights in whole steps, as they must be", "")
"""This variant makes any backend one that rounds weights to int8."""
ROW, PROMPT = "int8.weights.row", "int8.weights.prompt"

MUTANTS = [
    _everywhere("int8-per-tensor", "all outputs of a weight have steps of one size", ROW, _per_tensor),
    _everywhere(
        "int8-per-input", "a step is a 127th of the largest weight of an input, not of an output", ROW, _per_input
    ),
    _everywhere("int8-cut-off", "weights are cut off to whole steps, not rounded", ROW, _cut_off),
    _everywhere("int8-wrapped", "a step is a 128th, and the largest weight becomes -128", ROW, _wrapped),
    _everywhere("int8-zero-forgotten", "numbers from 1 to 255, of which 128 is not taken off", ROW, _zero_forgotten),
    _everywhere("int8-from-the-least", "the steps begin at an output's least weight, not at 0", PROMPT, _least_to_most),
    _everywhere("int8-of-four-bits", "a step is a 7th of the largest weight", ROW, _four_bits),
    _everywhere("int8-steps-shifted", "an output has the step of the one before it", ROW, _steps_of_neighbour),
    _int8("int8-head-per-input", "the head's steps are those of its inputs", ROW, head=_per_input),
    _int8("int8-head-per-tensor", "all tokens' logits have steps of one size", PROMPT, head=_per_tensor),
    _int8("int8-blocks-exact", "only the head is rounded", ROW, blocks=lambda weight: weight),
    _lookup("int8-lookup-rounded", "the embedding is looked up in whole steps", per_output),
    _lookup("int8-lookup-per-column", "it is looked up in steps of each column", _per_input),
    _int8(
        "int8-logits-wrapped",
        "a step is a 128th, and the largest weight becomes -128, in the blocks",
        "int8.logits.probe.row",
        blocks=_wrapped,
    ),
    _int8(
        "int8-unannounced",
        "weights are rounded to int8 in decoding, and nobody is told",
        "decode.cache.steps",
        spec=CAPABILITY,
        decoding_weights=None,
    ),
]
