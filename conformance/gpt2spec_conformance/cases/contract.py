"""These cases ask what a backend promises beside its operations, and what it must refuse."""

from functools import partial
from typing import Any
from unittest import mock

import numpy as np

from gpt2spec.model import forward
from gpt2spec.ops import TensorOps
from gpt2spec_conformance.case import Answer, Nonconformance, all_hold, case, nothing_wrong
from gpt2spec_conformance.cases.inputs import L2, token_batch, tokens_and_targets
from gpt2spec_conformance.subject import Subject, backend_of
from gpt2spec_conformance.weights import weight_set

contract_case = partial(case, level="inference", operation="backend")


@contract_case("contract.parameters", metric="exact", truth=lambda answer: weight_set("probe", L2))
def parameters(subject: Subject) -> Answer:
    """dump_params gives back what load_params took: names, their order, shapes and bits."""
    backend, params = backend_of(subject), weight_set("probe", L2)
    found = backend.dump_params(backend.load_params(params))
    if list(found) != list(params):
        raise Nonconformance(f"dump_params returns {list(found)[:3]}...; load_params was given {list(params)[:3]}...")
    return found


@contract_case("contract.capabilities", metric="exact", truth=all_hold)
def capabilities(subject: Subject) -> Answer:
    """What the backend says of itself is well-formed, and it computes in a dtype that it claims."""
    backend = backend_of(subject)
    claims = backend.capabilities
    if backend.dtype not in claims.dtypes:
        raise Nonconformance(f"the backend computes in {backend.dtype}, which is not among {claims.dtypes}")
    wide = backend.to_numpy(backend.ops.full((), 1.0, backend.param_dtype)).dtype
    if wide != backend.param_dtype:
        raise Nonconformance(f"a {backend.param_dtype} tensor comes back as {wide}")
    for name in ("gradients", "dropout", "compiled", "in_place", "asynchronous"):
        if not isinstance(getattr(claims, name), bool):
            raise Nonconformance(f"capability {name} is {getattr(claims, name)!r}; it is true or false")
    if claims.gradients:
        square = backend.value_and_grad(lambda tree: backend.ops.sum(tree["x"] * tree["x"], None, keepdims=False))
        value, gradient = square({"x": backend.put(np.array([3.0, 4.0]))})
        found = [float(backend.to_numpy(value)), *backend.to_numpy(gradient["x"]).tolist()]
        if found != [25.0, 6.0, 8.0]:
            raise Nonconformance(f"the value and gradient of x.x at (3, 4) are {found}; they are [25, 6, 8]")
    else:
        _must_raise(
            lambda: backend.value_and_grad(lambda tree: tree["x"])({"x": backend.put(np.ones(()))}), "gradients"
        )
    return nothing_wrong()


def _must_raise(action: Any, capability: str) -> None:
    try:
        action()
    except Exception:
        return
    raise Nonconformance(f"the backend says that it has no {capability}, but computes them")


@contract_case("contract.precision")
def precision(subject: Subject) -> Answer:
    """A product has the precision of its dtype: it is not computed in a lower one.

    The factors need all their bits.
    """
    backend = backend_of(subject)
    r = np.random.default_rng(3)
    a, b = (1.0 + r.random((16, 64)).astype(np.float32) * 2**-6 for _ in range(2))
    ops = backend.ops
    zero = backend.put(np.zeros(16))
    run = backend.jit(
        lambda a, b, b_transposed: {
            "matmul": ops.matmul(a, b_transposed),
            "linear": ops.linear(a, b_transposed, zero),
            "unembed": ops.unembed(a, b),
        }
    )
    found = run(*map(backend.put, (a, b, b.T.copy())))
    return {name: backend.to_numpy(x) for name, x in found.items()}


@contract_case(
    "contract.jit",
    metric="exact",
    truth=lambda answer: {
        "first": np.array([3.0, 5.0]),
        "second": np.array([21.0, 41.0]),
        "other shape": np.array([15.0]),
        "first, kept": np.array([3.0, 5.0]),
        "input, kept": np.array([1.0, 2.0]),
    },
)
def jit(subject: Subject) -> Answer:
    """A compiled function follows its inputs, and leaves its inputs and earlier results alone.

    The function is 2 x + 1.
    """
    backend = backend_of(subject)
    run = backend.jit(lambda x: 2.0 * x + 1.0)
    x = backend.put(np.array([1.0, 2.0]))
    first = run(x)
    answer = {"first": backend.to_numpy(first), "second": backend.to_numpy(run(backend.put(np.array([10.0, 20.0]))))}
    answer["other shape"] = backend.to_numpy(run(backend.put(np.array([7.0]))))
    return {**answer, "first, kept": backend.to_numpy(first), "input, kept": backend.to_numpy(x)}


@contract_case(
    "contract.jit-update",
    metric="exact",
    truth=lambda answer: {"states": np.array([2.0, 5.0, 11.0, 23.0]), "aux": np.array([0.5, 2.0, 5.0, 11.0])},
)
def jit_update(subject: Subject) -> Answer:
    """A compiled update goes on from the state that it returned.

    It makes 2 x + 1 of x, four times from 1 / 2.
    """
    backend = backend_of(subject)
    step = backend.jit_update(lambda state: ({"x": 2.0 * state["x"] + 1.0}, state["x"] * 1.0))
    state = {"x": backend.put(np.array([0.5]))}
    states, seen = [], []
    for _ in range(4):
        state, aux = step(state)
        states.append(float(backend.to_numpy(state["x"])[0]))
        seen.append(float(backend.to_numpy(aux)[0]))
    return {"states": np.array(states), "aux": np.array(seen)}


@contract_case("contract.eager", truth=lambda answer: {"eager": answer["compiled"], "loop": answer["compiled"]})
def eager(subject: Subject) -> Answer:
    """Compiled and uncompiled logits agree, and the layers' own loop with the plain one."""
    backend = backend_of(subject)
    tokens, _ = tokens_and_targets(L2)
    params, ids = backend.load_params(weight_set("probe", L2)), backend.put(tokens)
    found = {
        "compiled": subject.logits(L2, weight_set("probe", L2), tokens),
        "eager": backend.to_numpy(forward(backend.ops, L2, params, ids)),
    }
    with mock.patch.object(backend.ops, "scan_blocks", partial(TensorOps.scan_blocks, backend.ops)):
        found["loop"] = backend.to_numpy(forward(backend.ops, L2, params, ids))
    return found


@case("contract.ids", level="inference", operation="logits", metric="exact", truth=all_hold)
def unknown_ids(subject: Subject) -> Answer:
    """An id beyond the vocabulary, or a negative one, is an error: it is neither clamped nor ignored."""
    for wrong in (L2.vocab_size, -1):
        tokens = token_batch(L2)[:, :-1].copy()
        tokens[1, 3] = wrong
        _must_refuse(subject, tokens, f"the id {wrong} (the vocabulary has {L2.vocab_size})")
    return nothing_wrong()


@case("contract.length", level="inference", operation="logits", metric="exact", truth=all_hold)
def too_long(subject: Subject) -> Answer:
    """More positions than n_ctx are an error."""
    _must_refuse(subject, token_batch(L2, positions=L2.n_ctx)[:, : L2.n_ctx + 1], f"{L2.n_ctx + 1} positions")
    return nothing_wrong()


def _must_refuse(subject: Subject, tokens: np.ndarray, what: str) -> None:
    try:
        np.asarray(subject.logits(L2, weight_set("probe", L2), tokens))
    except Exception:
        return
    raise Nonconformance(f"{what} gave logits; an error is expected")
