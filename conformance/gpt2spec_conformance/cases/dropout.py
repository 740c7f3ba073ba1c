"""These cases ask of dropout its rate, its scale, the mask of the backward pass, and other masks each time.

A model is made whose branches are constants, each a power of four (of two, where a low precision has few bits): what
dropout left of each can be read off the residual stream, digit by digit.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from unittest import mock

import numpy as np

from gpt2spec.backend import Backend
from gpt2spec.loss import language_model_loss
from gpt2spec.model import transformer
from gpt2spec.ops import Tensor
from gpt2spec.parameters import HostParams, weight_table
from gpt2spec.random import generator
from gpt2spec_conformance.case import Answer, NotApplicable, all_hold, case
from gpt2spec_conformance.cases.inputs import L1, L2, tokens_and_targets
from gpt2spec_conformance.error import EPSILON
from gpt2spec_conformance.subject import Subject, backend_of
from gpt2spec_conformance.weights import weight_set

RATE = 0.5
"""At this rate a kept value is doubled, 2 x base^site."""
MODEL = L2.replace(n_embd=96, dropout=RATE)
SITES = 2 * L2.n_layer + 1
ROWS = 4


def constant_branches(base: float) -> HostParams:
    """Weights with which the embedding is 1, and what the branches add is base, base^2, base^3 and base^4."""
    params = {weight.name: np.full(weight.shape, weight.mean, np.float32) for weight in weight_table(MODEL)}
    params["wte.weight"] += 1.0
    for layer in range(MODEL.n_layer):
        params[f"h.{layer}.attn.c_proj.bias"] += base ** (2 * layer + 1)
        params[f"h.{layer}.mlp.c_proj.bias"] += base ** (2 * layer + 2)
    return params


def _digits(subject: Subject, seed: int = 1, step: int = 1) -> np.ndarray:
    """Reads off what each site left of its constant: [sites, B, T, D], 0 where dropped."""
    backend = backend_of(subject)
    run = _program(backend)
    tokens = np.zeros((ROWS, MODEL.n_ctx), np.int32)
    base = 4.0 if EPSILON[subject.dtype] < 1e-4 else 2.0
    params = backend.load_params(constant_branches(base))
    stream = backend.to_numpy(run(params, backend.put(tokens), backend.dropout_key(seed, step)))
    digits = []
    rest = np.asarray(stream, np.float64)
    for site in reversed(range(SITES)):
        digit = 2 * np.floor(rest / (2 * base**site))
        rest = rest - digit * base**site
        digits.append(digit)
    digits[-1] = digits[-1] + rest  # what was not doubled
    return np.stack(digits[::-1])


@lru_cache(maxsize=16)
def _program(backend: Backend) -> Any:
    """The residual stream after the last block, [B, T, D], with dropout: compiled once for a backend."""

    def stream(params: Any, tokens: Any, key: Any) -> Any:
        params = backend.ops.compute_params(params)
        taps = transformer(backend.ops, MODEL, params, tokens, key=key, taps=True)[2]
        return backend.ops.unstack_layers(taps)[-1]["residual"]

    return backend.jit(stream)


@case("dropout.scale", level="train", operation="backend", metric="exact", truth=all_hold)
def scale(subject: Subject) -> Answer:
    """What is kept is divided by 1 - p, at each of the five sites."""
    return {"right": np.isin(_digits(subject), (0, 2)).reshape(SITES, -1).all(1).astype(float)}


@case("dropout.rate", level="train", operation="backend", metric="exact", truth=all_hold)
def rate(subject: Subject) -> Answer:
    """A share p is dropped, at each of the five sites, within five standard errors."""
    dropped = (_digits(subject) == 0).reshape(SITES, -1)
    error = 5 * np.sqrt(RATE * (1 - RATE) / dropped.shape[1])
    return {"right": (np.abs(dropped.mean(1) - RATE) < error).astype(float)}


@case("dropout.sites", level="train", operation="backend", metric="exact", truth=all_hold)
def sites(subject: Subject) -> Answer:
    """No two sites, rows or steps have the same mask; the same (seed, step) has the same."""
    first, again, other = (_digits(subject, *key) != 0 for key in ((1, 1), (1, 1), (1, 2)))

    def similar(masks: np.ndarray) -> bool:
        flat = masks.reshape(len(masks), -1)
        return any((flat[i] == flat[j]).mean() > 0.6 for i in range(len(flat)) for j in range(i))

    held = {
        "sites differ": not similar(first),
        "rows differ": not similar(first.swapaxes(0, 1)),
        "positions differ": not similar(first.transpose(2, 0, 1, 3)),
        "steps differ": not (first == other).mean() > 0.6,
        "the same step repeats": bool((first == again).all()),
    }
    return {name: np.array([float(value)]) for name, value in held.items()}


@case(
    "dropout.backward",
    level="train",
    operation="backend",
    metric="whole",
    truth=lambda answer: {"product": answer["value"]},
)
def backward(subject: Subject) -> Answer:
    """The backward pass has the mask of the forward pass.

    f(x) = <c, dropout(x)> is linear, so f(x) = <gradient, x> if both have one mask.
    """
    backend = backend_of(subject)
    ops = backend.ops
    r = np.random.default_rng(5)
    x, c = (r.standard_normal((8, 64)).astype(np.float32) for _ in range(2))

    def f(tree: Any, weights: Any, key: Any) -> Any:
        dropped = ops.dropout(tree["x"], RATE, ops.fold_in(key, 0))
        return ops.sum(dropped * weights, None, keepdims=False)

    run = backend.jit(backend.value_and_grad(f))
    value, gradient = run({"x": backend.put(x)}, backend.put(c), backend.dropout_key(1, 1))
    product = float(np.sum(np.asarray(backend.to_numpy(gradient["x"]), np.float64) * x))
    return {"product": np.array([product]), "value": np.array([float(backend.to_numpy(value))])}


GIVEN = L1.replace(dropout=0.3, attn_dropout=0.2)
LEVELS_OF_NUMBERS = 64
"""The given numbers are 1/128, 3/128, ...: none is close to a rate."""


@case("dropout.masks.given", level="train", operation="backend", metric="gradients")
def given_masks(subject: Subject) -> Answer:
    """With given random numbers, the loss and its gradient are those of the definition: what is dropped where.

    The answer also says how often numbers were drawn, which goes in the order of the model: for the embedding, the
    attention weights [B, H, T, T], the attention output and the MLP output. Draw number n has the same numbers for
    every backend; a value is dropped where its number is below the rate. The key is no argument and the function is
    not compiled, so that the operations draw by `random_uniform`.
    """
    backend = backend_of(subject)
    ops, params, batch = backend.ops, weight_set("probe", GIVEN), tokens_and_targets(GIVEN)
    key = backend.dropout_key(1, 1)
    draws: list[tuple[int, ...]] = []

    def given(key: Any, shape: Sequence[int]) -> Tensor:
        draws.append(tuple(shape))
        numbers = generator(17, "conformance-dropout", len(draws)).integers(0, LEVELS_OF_NUMBERS, shape)
        return ops.asarray((numbers + 0.5) / LEVELS_OF_NUMBERS, "float32")

    def loss(params: Any, tokens: Tensor, targets: Tensor) -> Tensor:
        return language_model_loss(ops, GIVEN, params, tokens, targets, key)

    with subject.context(), mock.patch.object(ops, "random_uniform", given):
        found = backend.value_and_grad(loss)(backend.load_params(params), *map(backend.put, batch))
        value, gradient = backend.jit(lambda found: found)(found)  # all at once, where values are computed when asked
        answer = {"loss": np.array([float(backend.to_numpy(value))]), **backend.dump_params(gradient)}
    if not draws:
        raise NotApplicable("dropout is a kernel of the backend's own, which takes no numbers from random_uniform")
    if all(len(shape) == 3 for shape in draws) and _drops_weights(backend):
        raise NotApplicable("attention drops its weights in a kernel that takes no numbers from random_uniform")
    return {**answer, "draws": np.array([len(draws)])}


def _drops_weights(backend: Backend) -> bool:
    """Whether attention over values of 1 is no longer 1 everywhere, since some of its weights were dropped."""
    shape = (ROWS, GIVEN.n_head, GIVEN.n_ctx, GIVEN.head_width)
    q, v = (backend.ops.full(shape, value, backend.dtype) for value in (0.0, 1.0))
    found = backend.ops.causal_attention(q, q, v, dropout=RATE, key=backend.dropout_key(1, 1))
    return bool(np.abs(backend.to_numpy(found) - 1.0).max() > 0.1)


@case("dropout.evaluation", level="inference", operation="logits")
def evaluation(subject: Subject) -> Answer:
    """Logits have no dropout, whatever the configuration's rate."""
    config = L2.replace(dropout=RATE, attn_dropout=RATE)
    tokens, _ = tokens_and_targets(config)
    return {"logits": subject.logits(config, weight_set("probe", config), tokens)}
