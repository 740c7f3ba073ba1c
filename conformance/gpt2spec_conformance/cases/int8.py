"""These cases ask which weights int8 decoding really uses, and how far its logits are from those of exact weights.

These cases are for backends that say that they decode so, which must have passed all others without it.
"""

from collections.abc import Callable

import numpy as np

from gpt2spec import model
from gpt2spec.backend import Backend
from gpt2spec.ops import Tensor
from gpt2spec.parameters import HostParams
from gpt2spec_conformance import int8
from gpt2spec_conformance.case import Answer, case
from gpt2spec_conformance.cases.inputs import L1, L2, token_batch
from gpt2spec_conformance.subject import Subject, backend_of
from gpt2spec_conformance.weights import WEIGHT_SETS, weight_set

PREFILL = (9, 1, 1, 1, 1, 1, 1, 1)
MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


# ---------------------------------------------------------------------- weights


def uneven(seed: int = 3) -> HostParams:
    """Weights whose outputs are of all sizes, from a thousandth to a thousandfold, and one of zeros.

    None is within a fiftieth of a step of where rounding turns, and biases are zero.
    """
    params = weight_set("probe", L1, seed)
    for name, weight in params.items():
        if ".bias" in name:
            weight[...] = 0.0
        elif name == "wte.weight":
            params[name] = _uneven(weight.T).T.copy()
        elif weight.ndim == 2 and name != "wpe.weight":
            params[name] = _uneven(weight)
    return params


def _uneven(weight: np.ndarray) -> np.ndarray:
    weight = weight.astype(np.float64) * np.logspace(-3, 3, weight.shape[1])
    weight[:, 5] = 0.0
    step = int8.steps(weight)
    fraction = weight / step - np.floor(weight / step)
    return np.where(np.abs(fraction - 0.5) < 0.02, weight + 0.04 * step, weight).astype(np.float32)


@case(
    "int8.weights.{rows}",
    level="int8",
    operation="int8",
    truth=lambda answer: whole_steps(),
    each=[
        {"rows": "row", "what": "one row", "shape": (1, 1)},
        {"rows": "rows", "what": "a position of each of many rows", "shape": (-1, 1)},
        {"rows": "prompt", "what": "a prompt", "shape": (1, -1)},
    ],
)
def weights(subject: Subject, shape: tuple[int, int]) -> Answer:
    """{what} is multiplied by weights in whole steps, a 127th of the largest of their output.

    The answer has each matrix [out, in] in steps, as its product with the identity gives it, [B, T] rows of that at a
    time. The identity is the same in every dtype: what comes out is the weights that were read.
    """
    backend = backend_of(subject)
    ops, host = backend.ops, uneven()
    with subject.context():
        params = backend.decoding_params(backend.load_params(host))
        block = params["blocks"][0]
        found = {"wte": _product(backend, ops.unembed, L1.n_embd, shape, params["wte"]["weight"])}
        for name in MATRICES:
            branch, layer = name.split(".")
            p = block[branch][layer]
            found[name] = _product(backend, ops.linear, _matrix(host, name).shape[0], shape, p["weight"], p["bias"])
    return {name: (product / int8.steps(_matrix(host, name))).T for name, product in found.items()}


def _product(
    backend: Backend, product: Callable[..., Tensor], width: int, shape: tuple[int, int], *operands: Tensor
) -> np.ndarray:
    multiply = backend.jit(product)
    identity = np.eye(width)
    inputs = [row.reshape(1, 1, width) for row in identity] if shape == (1, 1) else [identity.reshape(*shape, width)]
    found = [backend.to_numpy(multiply(backend.ops.asarray(x, backend.dtype), *operands)) for x in inputs]
    return np.concatenate([x.reshape(-1, x.shape[-1]) for x in found]).astype(np.float64)


def _matrix(host: HostParams, name: str) -> np.ndarray:
    """The weight [in, out] of a product; the head's is the embedding transposed."""
    return host["wte.weight"].T if name == "wte" else host[f"h.0.{name}.weight"]


def whole_steps() -> Answer:
    """The truth of `weights`."""
    return {name: int8.rounded(_matrix(uneven(), name)).T for name in ("wte", *MATRICES)}


@case("int8.embedding", level="int8", operation="int8", truth=lambda answer: exact_embeddings())
def embeddings(subject: Subject) -> Answer:
    """The embedding of a token is looked up as it is, not rounded.

    The answer has the sum for every token at position 0, [V, D].
    """
    backend = backend_of(subject)
    with subject.context():
        params = backend.decoding_params(backend.load_params(uneven()))
        look_up = backend.jit(lambda params, tokens, positions: model.embed(backend.ops, params, tokens, positions))
        tokens = backend.put(np.arange(L1.vocab_size).reshape(-1, 1))
        found = look_up(params, tokens, backend.put(np.zeros((L1.vocab_size, 1), np.int32)))
        return {"embeddings": backend.to_numpy(found)[:, 0]}


def exact_embeddings() -> Answer:
    """The truth of `embeddings`."""
    host = uneven()
    return {"embeddings": host["wte.weight"].astype(np.float64) + host["wpe.weight"][0]}


# ---------------------------------------------------------------------- logits


@case(
    "int8.logits.{weights}.{name}",
    level="int8",
    operation="int8",
    unit="int8",
    each=[
        {"weights": weights, "name": name, "what": what, "rows": rows}
        for weights in WEIGHT_SETS
        for name, what, rows in (("row", "one row", 1), ("rows", "two rows", 2))
    ],
)
def logits(subject: Subject, weights: str, rows: int) -> Answer:
    """Logits through the cache, of {what}, are near those of exact weights ({weights}).

    A prompt [B, T] is read in one pass and then more of it token by token; the oracle has exact weights.
    """
    tokens = token_batch(L2, rows)[:, :-1]
    found = subject.cached_logits(L2, weight_set(weights, L2), tokens, [L2.n_ctx] * rows, PREFILL)
    return {"logits": np.asarray(found, np.float64)}
