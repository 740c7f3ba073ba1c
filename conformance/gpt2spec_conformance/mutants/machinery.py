"""Mistakes of the machinery: compilers, precision, state, and backends that claim what they do not do."""

from collections.abc import Callable
from typing import Any

from gpt2spec.ops import Tensor, TensorOps
from gpt2spec.tree import tree_map
from gpt2spec_conformance.mutants.fault import Mutant
from gpt2spec_conformance.mutants.loss import backward

JIT = "a compiled function is the function (Backend.jit, Backend.jit_update)"
PRECISION = "float32 has 23 bits of mantissa in every product (TensorOps.matmul)"
CLAIMS = "a backend does what its Capabilities say (backend.Capabilities)"
KILLED_BY = "model.logits.probe.L1"
MANTISSA = {"float32": 23, "float64": 52}


def _frozen(original: Any, backend: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns what the first call returned, as a function does whose inputs became constants."""
    compiled = original(function)
    first: list[Any] = []

    def run(*args: Any) -> Any:
        if not first:
            first.append(compiled(*args))
        return first[0]

    return run


def _state_lost(original: Any, backend: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a copy of the old state, made before the call, which may overwrite it."""
    compiled = original(function)

    def run(state: Any, *args: Any) -> Any:
        old = tree_map(lambda x: x + 0.0, state)
        _, aux = compiled(state, *args)
        return old, aux

    return run


def rounded(ops: TensorOps, x: Tensor, bits: int) -> Tensor:
    """Rounds `x` to `bits` explicit bits of mantissa (Dekker's split), unless it has no more than that."""
    if MANTISSA.get(ops.dtype, 0) <= bits:
        return x
    large = x * (2.0 ** (MANTISSA[ops.dtype] - bits) + 1.0)
    return large - (large - x)


def _products_in(bits: int) -> dict[str, Callable[..., Any]]:
    """Rounds the inputs of every product of matrices."""

    def linear(original: Any, ops: TensorOps, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return original(rounded(ops, x, bits), rounded(ops, weight, bits), bias)

    def attend(original: Any, ops: TensorOps, q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
        return original(*(rounded(ops, x, bits) for x in (q, k, v)), **settings)

    def unembed(original: Any, ops: TensorOps, x: Tensor, wte: Tensor) -> Tensor:
        return original(rounded(ops, x, bits), rounded(ops, wte, bits))

    def head_cross_entropy(original: Any, ops: TensorOps, x: Tensor, wte: Tensor, targets: Tensor) -> Tensor:
        return original(rounded(ops, x, bits), rounded(ops, wte, bits), targets)

    return {
        "linear": linear,
        "causal_attention": attend,
        "unembed": unembed,
        "head_cross_entropy": head_cross_entropy,
    }


def _logits_rounded(original: Any, ops: TensorOps, x: Tensor, wte: Tensor) -> Tensor:
    return ops.astype(ops.astype(original(x, wte), "float16"), ops.reduce_dtype)


def _in_float16(original: Any, ops: TensorOps, x: Tensor, *args: Any, **settings: Any) -> Tensor:
    return ops.astype(ops.astype(original(x, *args, **settings), "float16"), ops.dtype)


def _compiler(name: str, summary: str, killed_by: str, **transforms: Callable[..., Any]) -> Mutant:
    return Mutant(name, summary, JIT, killed_by, backend=transforms)


def _precision(name: str, summary: str, ops: dict[str, Callable[..., Any]]) -> Mutant:
    return Mutant(name, summary, PRECISION, KILLED_BY, ops=ops)


MUTANTS = [
    _compiler("jit-frozen", "a compiled function returns its first result", "model.laws.repeated", jit=_frozen),
    _compiler("update-lost", "an update returns the old state", "optimizer.adamw.1e+00", jit_update=_state_lost),
    backward("gradients-claimed", "gradients are claimed and are zero", lambda g: 0.0 * g, CLAIMS),
    _precision("precision-tf32", "products in TF32: 10 bits of mantissa", _products_in(10)),
    _precision("precision-bfloat16", "products in bfloat16: 7 bits of mantissa", _products_in(7)),
    _precision("precision-3xbfloat16", "products of two bfloat16 halves: 15 bits of mantissa", _products_in(15)),
    _precision("precision-norm", "layer norm in float16", {"layer_norm": _in_float16}),
    _precision("precision-gelu", "GELU in float16", {"gelu_tanh": _in_float16}),
    _precision("precision-attention", "attention in float16", {"causal_attention": _in_float16}),
    _precision("precision-logits", "logits in float16", {"unembed": _logits_rounded}),
]
