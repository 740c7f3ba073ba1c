"""tinygrad's AdamW assigns to the old state: what must be read of it first, and what memory that saves."""

import gc
from typing import Any

import numpy as np
import pytest
from gpt2spec_numpy.create import create as create_numpy

from gpt2spec.optimizer import AdamW, apply_gradients, initial_state, update_scalars

pytest.importorskip("tinygrad")
from gpt2spec_tinygrad.create import create

ADAMW = AdamW(clip=0.5, weight_decay=0.1)


def step_of(backend: Any) -> Any:
    """A step whose gradient and whose results need the old weights, in both directions and one after another."""
    ops = backend.ops

    def loss(params: Any, x: Any) -> Any:
        w = params["blocks"][0]["weight"]
        for _ in range(3):
            x = ops.gelu_tanh(ops.matmul(x, w)) + ops.matmul(x, ops.permute_dims(w, (1, 0)))
        return ops.sum(x * x, None, keepdims=False)

    value_and_grad = backend.value_and_grad(loss)

    def step(state: Any, x: Any, scalars: Any) -> Any:
        value, grads = value_and_grad(state["params"], x)
        length = value * ops.global_norm([state["params"]["blocks"][0]["weight"]])
        state, norm = apply_gradients(ops, ADAMW, state, grads, scalars)
        return state, [value, length, norm, state["params"]["blocks"][0]["weight"]]

    return backend.jit_update(step)


def state_of(backend: Any, seed: int) -> Any:
    weight = 0.3 * np.random.default_rng(seed).standard_normal((16, 16))
    params = {"blocks": [{"weight": backend.put(weight.astype(np.float32))}]}
    return initial_state(backend.ops, params)


def history(backend: Any) -> list[np.ndarray]:
    """The results of updating one state and then another with the same program, and the first state afterwards."""
    step, found = step_of(backend), []
    x = backend.put(np.random.default_rng(9).standard_normal((4, 16)).astype(np.float32))
    first = state_of(backend, 0)
    for state, updates in ((first, (1, 2, 3)), (state_of(backend, 1), (1, 2))):
        for update in updates:
            scalars = {n: backend.put(np.float64(v)) for n, v in update_scalars(ADAMW, 0.1, update).items()}
            state, results = step(state, x, scalars)
            if update == 3:
                first = state
            found += results
    return [backend.to_numpy(value) for value in [*found, first["params"]["blocks"][0]["weight"]]]


def test_what_needs_the_old_state_is_computed_before_it_is_overwritten() -> None:
    for found, expected in zip(history(create("cpu")), history(create_numpy(dtype="float64")), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_no_second_state_stands_beside_the_old_one() -> None:
    """A program may hold the gradient of a tensor, or its new weights, but not its new moments too."""
    from tinygrad.helpers import GlobalCounters

    backend, n = create("cpu"), 2**20
    ops = backend.ops

    def step(state: Any, x: Any, scalars: Any) -> Any:
        return apply_gradients(ops, ADAMW, state, {"weight": state["params"]["weight"] * x}, scalars)

    run = backend.jit_update(step)
    state = {
        name: {"weight": backend.put(np.full(n, x, np.float32))} for name, x in (("params", 1), ("m", 0), ("v", 0))
    }
    scalars = {name: backend.put(np.float64(v)) for name, v in update_scalars(ADAMW, 0.1, 1).items()}
    gc.collect()
    before = GlobalCounters.mem_used
    run(state, backend.put(np.float32(0.5)), scalars)
    assert GlobalCounters.mem_used - before < 1.5 * 4 * n
