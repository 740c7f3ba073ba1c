"""int8 weights in decoding: the weights that are really used, and how far logits are from those of exact weights.

These cases are for backends that say that they decode so, which must have passed all others without it.
"""

from functools import partial

import numpy as np

from gpt2spec import model
from gpt2spec.backend import Backend
from gpt2spec.ops import Tensor
from gpt2spec.parameters import HostParams
from gpt2spec_conformance import int8
from gpt2spec_conformance.case import Answer, Case
from gpt2spec_conformance.cases.inputs import L1, L2, token_batch
from gpt2spec_conformance.subject import Subject, backend_of
from gpt2spec_conformance.weights import weight_set

PREFILL = (9, 1, 1, 1, 1, 1, 1, 1)
MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def cases() -> list[Case]:
    """All of them."""
    return [
        *(
            Case(
                f"int8.weights.{name}",
                "int8",
                "int8",
                f"{words} is multiplied by weights in whole steps, a 127th of the largest of their output",
                partial(weights, shape=shape),
                truth=lambda answer: whole_steps(),
            )
            for name, words, shape in [
                ("row", "one row", (1, 1)),
                ("rows", "a position of each of many rows", (-1, 1)),
                ("prompt", "a prompt", (1, -1)),
            ]
        ),
        Case(
            "int8.embedding",
            "int8",
            "int8",
            "the embedding of a token is looked up as it is, not rounded",
            embeddings,
            truth=lambda answer: exact_embeddings(),
        ),
        *(
            Case(
                f"int8.logits.{weights}.{name}",
                "int8",
                "cached_logits",
                f"logits through the cache, of {words}, are near those of exact weights ({weights})",
                partial(logits, weights=weights, rows=rows),
                unit="int8",
            )
            for weights in ("init", "probe")
            for name, words, rows in [("row", "one row", 1), ("rows", "two rows", 2)]
        ),
    ]


# ---------------------------------------------------------------------- weights


def uneven(seed: int = 3) -> HostParams:
    """Weights of which no two outputs are of one size: from a thousandth to a thousandfold, and one of zeros.

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


def weights(subject: Subject, shape: tuple[int, int]) -> Answer:
    """Each matrix [out, in] in steps, as products of [B, T] of the identity's rows with it have it.

    Rows of the identity are the same in every dtype: what comes out is the weights that were read.
    """
    backend = backend_of(subject)
    host = uneven()
    with subject.context():
        params = backend.decoding_params(backend.load_params(host))
        found = {"wte": _columns(backend, backend.ops.unembed, (params["wte"]["weight"],), L1.n_embd, shape)}
        for name in MATRICES:
            part, layer = name.split(".")
            p = params["blocks"][0][part][layer]
            width = host[f"h.0.{name}.weight"].shape[0]
            found[name] = _columns(backend, backend.ops.linear, (p["weight"], p["bias"]), width, shape)
    return {name: _in_steps(product, _matrix(host, name)) for name, product in found.items()}


def _columns(backend: Backend, product: Tensor, operands: tuple[Tensor, ...], width: int, shape: tuple[int, int]) -> np.ndarray:
    """The products of the identity's rows, [width, out]: all at a time, or one by one."""
    multiply = backend.jit(product)
    identity = np.eye(width, dtype=np.float32)
    parts = identity[:, None, None] if shape == (1, 1) else [identity.reshape(*shape, width)]
    x = [backend.ops.asarray(part.reshape(*part.shape[:-1], width), backend.dtype) for part in map(_as_batch, parts)]
    return np.concatenate([backend.to_numpy(multiply(part, *operands)).reshape(-1, _outputs(operands)) for part in x])
