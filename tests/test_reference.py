"""The model, the loss and their gradients on the NumPy reference, against Hugging Face's GPT-2 in float64.

Hugging Face's model gets our random weights; nothing is downloaded. Errors are relative and normwise.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from gpt2spec_conformance.error import EPSILON, activation_error, gradient_errors, whole_error
from gpt2spec_conformance.weights import weight_set
from gpt2spec_numpy.backend import NumpyBackend
from gpt2spec_numpy.create import create
from gpt2spec_numpy.strict import StrictArray
from hypothesis import given
from hypothesis import strategies as st

from gpt2spec.api import logits, loss_and_gradients
from gpt2spec.config import GPT2Config
from gpt2spec.errors import BackendError
from gpt2spec.loss import language_model_loss
from gpt2spec.model import forward_with_taps
from gpt2spec.ops import TensorOps
from gpt2spec.parameters import HostParams

REFERENCE = create(dtype="float64")
EXACT = 1e-10 / EPSILON["float64"]
"""A relative error of 1e-10: far above rounding, far below any mistake."""

BASE = GPT2Config(n_layer=2, n_head=2, n_embd=16, n_ctx=24, vocab_size=37, dropout=0.0)
# (configuration, rows, length)
SHAPES = {
    "some": (BASE, 3, 9),
    "one position": (BASE, 2, 1),
    "full context": (BASE, 1, 24),
    "one head": (BASE.replace(n_head=1), 2, 7),
    "heads of one": (BASE.replace(n_head=16), 2, 7),
    "one layer": (BASE.replace(n_layer=1), 2, 7),
    "three layers, odd everything": (
        BASE.replace(n_layer=3, n_head=3, n_embd=21, vocab_size=11, n_ctx=13, layer_norm_epsilon=1e-3),
        2,
        13,
    ),
}
Batch = Callable[..., tuple[np.ndarray, np.ndarray]]
MakeWeights = Callable[[GPT2Config], HostParams]


class HuggingFace:
    """Their model with our weights, and the outputs of its modules."""

    def __init__(self, config: GPT2Config, params: HostParams) -> None:
        theirs = transformers.GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.n_ctx,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            layer_norm_epsilon=config.layer_norm_epsilon,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            attn_implementation="eager",
        )
        self.model = transformers.GPT2LMHeadModel(theirs).double().eval()
        state = {f"transformer.{name}": torch.tensor(array) for name, array in params.items()}
        state["lm_head.weight"] = state["transformer.wte.weight"]
        self.model.load_state_dict(state)

    def __call__(self, tokens: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, float, HostParams]:
        out = self.model(torch.tensor(tokens)).logits
        loss = torch.nn.functional.cross_entropy(out.flatten(0, 1), torch.tensor(targets).flatten())
        self.model.zero_grad()
        loss.backward()
        grads = {name.removeprefix("transformer."): p.grad.numpy() for name, p in self.model.named_parameters()}
        return out.detach().numpy(), loss.item(), grads

    def taps(self, tokens: np.ndarray) -> tuple[list[dict[str, np.ndarray]], list[np.ndarray]]:
        """The outputs of attention and MLP in each layer, and `hidden_states`."""
        found: list[dict[str, np.ndarray]] = []

        def keep(layer: int, name: str) -> Callable[..., None]:
            def hook(module: Any, inputs: Any, output: Any) -> None:
                found[layer][name] = (output[0] if isinstance(output, tuple) else output).numpy()

            return hook

        for i, block in enumerate(self.model.transformer.h):
            found.append({})
            for name, module in (("attn", block.attn), ("mlp", block.mlp), ("residual", block)):
                module.register_forward_hook(keep(i, name))
        with torch.no_grad():
            out = self.model(torch.tensor(tokens), output_hidden_states=True)
        return found, [x.numpy() for x in out.hidden_states]


# What Hugging Face's model says


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_loss_and_every_gradient_are_hugging_faces(make_weights: MakeWeights, batch: Batch, shape: str) -> None:
    config, rows, length = SHAPES[shape]
    params = {name: array.astype(np.float64) for name, array in make_weights(config).items()}
    tokens, targets = batch(config, rows, length)
    expected, expected_loss, expected_gradients = HuggingFace(config, params)(tokens, targets)

    assert activation_error(logits(REFERENCE, config, params, tokens), expected, "float64") < EXACT
    loss, gradients = loss_and_gradients(REFERENCE, config, params, tokens, targets)
    assert abs(loss / expected_loss - 1) < 1e-10
    assert list(gradients) == list(params)
    if length == 1:  # softmax of one score does not look at it: queries and keys have no gradient at all
        for name in [name for name in params if ".c_attn." in name]:
            for ours in (gradients[name], expected_gradients[name]):
                assert np.abs(np.split(ours, 3, -1)[:2]).max() < 1e-15
                ours[..., : 2 * config.n_embd] = 0.0
    errors = gradient_errors(gradients, expected_gradients, "float64")
    assert len(errors) == len(params) + 4 * config.n_layer
    assert {name: error for name, error in errors.items() if error > EXACT} == {}


def test_taps_are_hugging_faces_hidden_states(make_weights: MakeWeights, batch: Batch) -> None:
    config = BASE.replace(n_layer=3)
    params, (tokens, _) = make_weights(config), batch(config, 2, 9)
    layers, hidden = HuggingFace(config, params).taps(tokens)
    _, taps = forward_with_taps(REFERENCE.ops, config, REFERENCE.load_params(params), REFERENCE.put(tokens))
    assert len(taps) == len(layers) == config.n_layer
    for tap, layer in zip(taps, layers, strict=True):
        assert sorted(tap) == sorted(layer) == ["attn", "mlp", "residual"]
        for name in tap:
            assert activation_error(tap[name], layer[name], "float64") < EXACT, name
    for tap, after in zip(taps[:-1], hidden[1:-1], strict=True):  # the last hidden state is after the final norm
        assert activation_error(tap["residual"], after, "float64") < EXACT


def test_taps_change_no_logits(probe: MakeWeights, batch: Batch) -> None:
    params, (tokens, _) = probe(BASE), batch(BASE, 2, 9)
    tapped, _ = forward_with_taps(REFERENCE.ops, BASE, REFERENCE.load_params(params), REFERENCE.put(tokens))
    assert (tapped == logits(REFERENCE, BASE, params, tokens)).all()


# What finite differences say


def loss_of(config: GPT2Config, params: HostParams, tokens: np.ndarray, targets: np.ndarray) -> float:
    load, put = REFERENCE.load_params, REFERENCE.put
    return float(language_model_loss(REFERENCE.ops, config, load(params), put(tokens), put(targets)))


def slope(config: GPT2Config, params: HostParams, direction: HostParams, *batch: np.ndarray) -> float:
    """The slope along a direction by central differences, with the error of order h^2 removed (Richardson)."""

    def difference(h: float) -> float:
        ahead, behind = (
            {name: array + sign * h * direction.get(name, 0.0) for name, array in params.items()} for sign in (1, -1)
        )
        return (loss_of(config, ahead, *batch) - loss_of(config, behind, *batch)) / (2 * h)

    return (4 * difference(1e-4) - difference(2e-4)) / 3


def test_gradients_are_the_slopes_of_the_loss(make_weights: MakeWeights, batch: Batch) -> None:
    """They are tested along a direction through all weights, and for two entries of every weight."""
    params = {name: array.astype(np.float64) for name, array in make_weights(BASE).items()}
    tokens, targets = batch(BASE, 2, 6)
    _, gradients = loss_and_gradients(REFERENCE, BASE, params, tokens, targets)
    r = np.random.default_rng(0)
    direction = {name: 0.1 * r.standard_normal(array.shape) for name, array in params.items()}
    along = sum(float(np.sum(gradients[name] * direction[name])) for name in params)
    assert slope(BASE, params, direction, tokens, targets) == pytest.approx(along, rel=1e-6, abs=1e-9)
    for name, array in params.items():
        places = r.integers(array.size, size=2)
        if name in ("wte.weight", "wpe.weight"):
            places[0] = array.shape[1] * (tokens[0, 0] if name == "wte.weight" else 0)  # a row that is used
        for place in places:
            one = np.zeros(array.size)
            one[place] = 1.0
            expected = slope(BASE, params, {name: one.reshape(array.shape)}, tokens, targets)
            assert gradients[name].flat[place] == pytest.approx(expected, rel=1e-6, abs=1e-9), (name, place)


# Laws


@given(st.data())
def test_later_tokens_change_no_earlier_logits(data: st.DataObject) -> None:
    config, params = BASE, weight_set("probe", BASE)
    ids = st.integers(0, config.vocab_size - 1)
    tokens = np.array([data.draw(st.lists(ids, min_size=2, max_size=12))])
    place = data.draw(st.integers(1, tokens.shape[1] - 1))
    other = tokens.copy()
    other[0, place] = (other[0, place] + data.draw(st.integers(1, config.vocab_size - 1))) % config.vocab_size
    one, two = (logits(REFERENCE, config, params, x)[0] for x in (tokens, other))
    assert (one[:place] == two[:place]).all()
    assert (np.abs(one[place:] - two[place:]).max(-1) > 1e-9).all()  # and all later ones see it


def test_a_prefix_has_the_logits_it_has_in_the_whole(make_weights: MakeWeights, batch: Batch) -> None:
    params, (tokens, _) = make_weights(BASE), batch(BASE, 2, 24)
    whole = logits(REFERENCE, BASE, params, tokens)
    for length in (1, 2, 13, 23):
        found = logits(REFERENCE, BASE, params, tokens[:, :length])
        assert activation_error(found, whole[:, :length], "float64") < 100


def test_rows_of_a_batch_do_not_see_each_other(make_weights: MakeWeights, batch: Batch) -> None:
    params, (tokens, targets) = make_weights(BASE), batch(BASE, 5, 9)
    whole = logits(REFERENCE, BASE, params, tokens)
    order = [3, 0, 4, 2, 1]
    assert activation_error(logits(REFERENCE, BASE, params, tokens[order]), whole[order], "float64") < 100
    for row in range(5):
        assert activation_error(logits(REFERENCE, BASE, params, tokens[[row]]), whole[[row]], "float64") < 100
    losses = [loss_of(BASE, params, tokens[[row]], targets[[row]]) for row in range(5)]
    assert loss_of(BASE, params, tokens, targets) == pytest.approx(np.mean(losses), rel=1e-13)


def test_a_fresh_model_knows_nothing_yet(batch: Batch) -> None:
    tokens, targets = batch(BASE, 8, 24)
    assert loss_of(BASE, weight_set("init", BASE), tokens, targets) == pytest.approx(math.log(37), rel=0.01)


def test_the_loss_is_the_mean_over_all_positions_of_minus_log_probability(probe: MakeWeights, batch: Batch) -> None:
    params, (tokens, targets) = probe(BASE), batch(BASE, 3, 5)
    z = logits(REFERENCE, BASE, params, tokens)
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    picked = [p[b, t, targets[b, t]] for b in range(3) for t in range(5)]
    assert loss_of(BASE, params, tokens, targets) == pytest.approx(-np.log(picked).sum() / 15, rel=1e-12)


def test_float32_is_as_near_as_float32_can_be(make_weights: MakeWeights, batch: Batch) -> None:
    backend = create(dtype="float32", mode="reference")
    params, (tokens, targets) = make_weights(BASE), batch(BASE, 2, 24)
    found = logits(backend, BASE, params, tokens)
    assert found.dtype == np.float32
    assert 0.1 < activation_error(found, logits(REFERENCE, BASE, params, tokens), "float32") < 16
    loss, gradients = loss_and_gradients(backend, BASE, params, tokens, targets)
    expected_loss, expected = loss_and_gradients(REFERENCE, BASE, params, tokens, targets)
    assert whole_error(np.array(loss), np.array(expected_loss), "float32") < 4
    assert {gradient.dtype for gradient in gradients.values()} == {np.dtype(np.float32)}
    assert {name: e for name, e in gradient_errors(gradients, expected, "float32").items() if e > 24} == {}


# Composites whose values can be said


def definitions(name: str) -> Callable[..., Any]:
    def run(*arrays: Any, **settings: Any) -> np.ndarray:
        tensors = [REFERENCE.put(np.asarray(x)) if not isinstance(x, int) else x for x in arrays]
        return np.asarray(getattr(TensorOps, name)(REFERENCE.ops, *tensors, **settings))

    return run


def test_gelu_is_the_tanh_form() -> None:
    x = np.linspace(-6, 6, 1001)
    expected = torch.nn.functional.gelu(torch.tensor(x), approximate="tanh").numpy()
    np.testing.assert_allclose(definitions("gelu_tanh")(x), expected, rtol=1e-9, atol=1e-14)
    assert np.abs(expected - torch.nn.functional.gelu(torch.tensor(x)).numpy()).max() > 1e-4, "erf is another"


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("epsilon", [1e-12, 1e-5, 1e-1])
def test_layer_norm_adds_epsilon_to_the_biased_variance_in_the_root(scale: float, epsilon: float) -> None:
    r = np.random.default_rng(0)
    x, weight, bias = scale * r.standard_normal((3, 4, 5)), r.standard_normal(5), r.standard_normal(5)
    found = definitions("layer_norm")(x, weight, bias, epsilon=epsilon)
    expected = torch.nn.functional.layer_norm(
        *map(torch.tensor, (x,)), (5,), *map(torch.tensor, (weight, bias)), epsilon
    )
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-10, atol=1e-12)


def test_softmax_and_log_sum_exp_bear_any_finite_and_masked_scores() -> None:
    x = np.array([[1e4, 1e4 - 1, -1e4], [-np.inf, 0.0, -np.inf], [-1e4, -1e4, -np.inf]])
    e = math.exp(-1)
    expected = [[1 / (1 + e), e / (1 + e), 0], [0, 1, 0], [0.5, 0.5, 0]]
    np.testing.assert_allclose(definitions("softmax")(x), expected, rtol=1e-12)
    found = definitions("log_sum_exp")(x)[:, 0]
    np.testing.assert_allclose(found, [1e4 + math.log(1 + e), 0.0, -1e4 + math.log(2)], rtol=1e-15)


def test_attention_is_a_loop_over_rows_heads_and_queries() -> None:
    r = np.random.default_rng(0)
    q, k, v = r.standard_normal((3, 2, 3, 7, 4)) * 3
    start = np.array([0, 2])
    found = definitions("causal_attention")(q[:, :, :5], k, v, start=REFERENCE.put(start))
    for b, h, i in np.ndindex(2, 3, 5):
        seen = slice(0, start[b] + i + 1)
        scores = np.exp(k[b, h, seen] @ q[b, h, i] / 2.0)
        np.testing.assert_allclose(found[b, h, i], scores @ v[b, h, seen] / scores.sum(), rtol=1e-10)


def test_heads_are_columns_of_c_attn_in_order_and_come_back_together() -> None:
    x = np.arange(2 * 3 * 24).reshape(2, 3, 24).astype(float)
    parts = REFERENCE.ops.split_heads(REFERENCE.put(x), 4)
    for part, tensor in enumerate(parts):
        assert tensor.shape == (2, 4, 3, 2)
        for head in range(4):
            first = 8 * part + 2 * head
            assert (np.asarray(tensor)[:, head] == x[:, :, first : first + 2]).all()
    assert (np.asarray(REFERENCE.ops.merge_heads(parts[1])) == x[:, :, 8:16]).all()


def test_cache_write_touches_only_the_slots_it_is_for() -> None:
    r = np.random.default_rng(0)
    cache, new = r.standard_normal((2, 2, 6, 3)), r.standard_normal((2, 2, 2, 3))
    found = definitions("cache_write")(cache, new, np.array([4, 1]))
    expected = cache.copy()
    expected[0, :, 4:6], expected[1, :, 1:3] = new[0], new[1]
    assert (found == expected).all()


# No dtype is promoted silently

A = {name: REFERENCE.ops.asarray(np.full((2, 3), 2), name) for name in ("float32", "float64", "int32", "int64")}
SCALAR = REFERENCE.ops.asarray(np.float64(2), "float64")
MIXES: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
    "/": lambda x, y: x / y,
    "**": lambda x, y: x**y,
    ">": lambda x, y: x > y,
    "==": lambda x, y: x == y,
    "where": lambda x, y: REFERENCE.ops.where(x > 0, x, y),
    "concat": lambda x, y: REFERENCE.ops.concat([x, y], 0),
}


def on_tape(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The gradient of the sum of a function."""
    run = REFERENCE.value_and_grad(lambda tree: REFERENCE.ops.sum(function(tree[0]), None, keepdims=False))
    return lambda x: run([x])[1][0]


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("other", ["float64", "int32", "int64"])
def test_two_dtypes_do_not_mix(mix: str, other: str) -> None:
    function, x, y = MIXES[mix], A["float32"], A[other]
    for a, b in ((x, y), (y, x), (x, np.asarray(y)), (np.asarray(x), y)):
        with pytest.raises(BackendError, match=f"of float32 and {other}: .* promotes no dtype; use ops.astype"):
            function(a, b)
    if mix not in (">", "=="):
        for taped in (lambda x: function(x, y), lambda x: function(y, x)):
            with pytest.raises(BackendError, match=f"of float32 and {other}"):
                on_tape(taped)(x)


def test_whole_numbers_of_two_dtypes_do_not_mix() -> None:
    with pytest.raises(BackendError, match="add of int32 and int64"):
        _ = A["int32"] + A["int64"]


@pytest.mark.parametrize("mix", ["+", "-", "*", "/", "where", ">"])
@pytest.mark.parametrize("wide", [SCALAR, SCALAR[()], np.float64(2)], ids=["0-d", "indexed", "NumPy number"])
def test_a_float64_number_is_not_weak(mix: str, wide: Any) -> None:
    """NumPy would promote by it, and other frameworks would not."""
    for a, b in ((A["float32"], wide), (wide, A["float32"])):
        if mix == "where" and a is wide:
            continue
        with pytest.raises(BackendError, match="float32 and float64"):
            MIXES[mix](a, b)
    if mix != ">":
        with pytest.raises(BackendError, match="float32 and float64"):
            on_tape(lambda x: MIXES[mix](x, wide))(A["float32"])


@pytest.mark.parametrize(
    "function",
    [lambda x: x / 2, lambda x: x * 0.5, lambda x: x / x, REFERENCE.ops.exp, REFERENCE.ops.sqrt, REFERENCE.ops.tanh],
)
def test_whole_numbers_do_not_become_floats(function: Callable[[Any], Any]) -> None:
    with pytest.raises(BackendError, match=r"of int32 gives float64: .* promotes no dtype; use ops.astype"):
        function(A["int32"])


def test_two_dtypes_do_not_multiply_as_matrices_or_update_in_place() -> None:
    with pytest.raises(BackendError, match="matmul of float32 and float64"):
        REFERENCE.ops.matmul(A["float32"], REFERENCE.ops.permute_dims(A["float64"], (1, 0)))
    with pytest.raises(BackendError, match="add of float32 and float64"):
        A["float32"] += A["float64"]


def primitives(ops: TensorOps) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    index = ops.asarray(np.array([[2, 0, 2], [1, 1, 0]]), "int32")
    yield "arithmetic", lambda x: 1.0 - 2 * x / 3 + (x - 1) * x + 1 / (x + 9)
    yield "astype", lambda x: ops.astype(ops.astype(x, "float64") * 2.0, "float32")
    yield "reshape", lambda x: ops.reshape(x, (-1,))
    yield "permute_dims", lambda x: ops.permute_dims(x, (1, 0))
    yield "concat", lambda x: ops.concat([x, x * 2.0, x], -1)
    yield "take", lambda x: ops.take(x, index, 1)
    yield "take_along_axis", lambda x: ops.take_along_axis(x, index, -1)
    yield "matmul", lambda x: ops.matmul(x, ops.permute_dims(x, (1, 0)))
    yield "where", lambda x: ops.where(x > 0, x, 0.0) + ops.where(x > 0, 1.0, x)
    yield "exp, log, sqrt, tanh", lambda x: ops.log(ops.exp(x) + 1.0) + ops.sqrt(x * x + 1.0) + ops.tanh(x)
    yield "sum", lambda x: ops.sum(x, 0, keepdims=False)
    yield "max", lambda x: ops.max(x, 1, keepdims=False) + ops.max(x, -1, keepdims=True)
    yield "cumulative_sum", lambda x: ops.cumulative_sum(x, 1)
    yield "sort", lambda x: ops.sort(x, 1, descending=True)
    yield "slices", lambda x: x[:, 1:] + x[..., :2] + x[1, :2]


@pytest.mark.parametrize("name", dict(primitives(REFERENCE.ops)))
def test_primitives_and_their_gradients_keep_dtype_and_strictness(name: str) -> None:
    """The gradients are also the slopes."""
    backend = create(dtype="float32", mode="reference")
    function = dict(primitives(backend.ops))[name]
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    weights = np.random.default_rng(1).standard_normal(function(backend.put(x)).shape).astype(np.float32)

    def total(tree: list[Any]) -> Any:
        return backend.ops.sum(function(tree[0]) * backend.put(weights), None, keepdims=False)

    value = function(backend.put(x))
    _, (gradient,) = backend.value_and_grad(total)([backend.put(x)])
    for tensor in (value, gradient):
        assert isinstance(tensor, StrictArray)
        assert tensor.dtype == np.float32
    theirs = torch.tensor(x.astype(np.float64), requires_grad=True)
    expected = torch_primitives(theirs)[name]
    np.testing.assert_allclose(backend.to_numpy(value), expected.detach().numpy(), rtol=1e-6, atol=1e-6)
    (expected * torch.tensor(weights)).sum().backward()
    np.testing.assert_allclose(backend.to_numpy(gradient), theirs.grad.numpy(), rtol=1e-5, atol=1e-6)


def torch_primitives(x: torch.Tensor) -> dict[str, torch.Tensor]:
    index = torch.tensor([[2, 0, 2], [1, 1, 0]])
    return {
        "arithmetic": 1 - 2 * x / 3 + (x - 1) * x + 1 / (x + 9),
        "astype": 2 * x,
        "reshape": x.reshape(-1),
        "permute_dims": x.T,
        "concat": torch.cat([x, 2 * x, x], -1),
        "take": x[:, index],
        "take_along_axis": x.gather(-1, index),
        "matmul": x @ x.T,
        "where": torch.where(x > 0, x, 0.0) + torch.where(x > 0, 1.0, x),
        "exp, log, sqrt, tanh": torch.log(x.exp() + 1) + torch.sqrt(x * x + 1) + x.tanh(),
        "sum": x.sum(0),
        "max": x.amax(1) + x.amax(-1, keepdim=True),
        "cumulative_sum": x.cumsum(1),
        "sort": x.sort(1, descending=True).values,
        "slices": x[:, 1:] + x[..., :2] + x[1, :2],
    }


def test_the_largest_of_equals_share_the_gradient() -> None:
    _, (gradient,) = REFERENCE.value_and_grad(
        lambda tree: REFERENCE.ops.sum(REFERENCE.ops.max(tree[0], 1, keepdims=False), None, keepdims=False)
    )([REFERENCE.put(np.array([[1.0, 1.0, 0.0], [2.0, 3.0, 1.0]]))])
    assert gradient.tolist() == [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]


def test_python_numbers_and_booleans_do_mix() -> None:
    x = A["float32"]
    for y in (x + 1, 2.5 * x, 1 / x, x**2, x - True, x * (x > 0), x > 1.5, -x):
        assert isinstance(y, StrictArray)
        assert y.dtype in (np.float32, np.bool_)
    assert (A["int32"] + 1).dtype == np.int32
    assert REFERENCE.ops.where(x > 0, x, -math.inf).dtype == np.float32


def test_a_number_of_the_same_dtype_stays_a_tensor() -> None:
    total = REFERENCE.ops.sum(A["float32"], None, keepdims=False)
    assert isinstance(total, StrictArray)
    assert (total.shape, total.dtype) == ((), np.float32)


def test_to_numpy_gives_a_plain_array_of_its_own() -> None:
    tensor = REFERENCE.put(np.arange(3.0))
    array = REFERENCE.to_numpy(tensor)
    array[0] = 9
    assert type(array) is np.ndarray
    assert tensor[0] == 0


def test_a_loss_that_does_not_depend_on_a_weight_has_a_gradient_of_zero() -> None:
    tree = {"a": REFERENCE.put(np.ones(2)), "b": [REFERENCE.put(np.ones((2, 2)))]}
    value, grads = REFERENCE.value_and_grad(lambda t: REFERENCE.ops.sum(t["a"] * 3.0, None, keepdims=False))(tree)
    assert float(value) == 6
    assert grads["a"].tolist() == [3, 3]
    assert grads["b"][0].tolist() == [[0, 0], [0, 0]]
    _, grads = REFERENCE.value_and_grad(lambda t: REFERENCE.put(np.array(1.0)))(tree)
    assert grads["a"].tolist() == [0, 0]


# Making the backend


def test_the_reference_is_the_default_for_float64_only() -> None:
    assert create(dtype="float64").mode == "reference"
    assert create().mode == create(dtype="float32").mode == "fast"
    assert isinstance(create(dtype="float64", mode="fast"), NumpyBackend)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "NumPy runs on the device 'cpu', not on 'gpu'"),
        ({"dtype": "bfloat16"}, "backend 'numpy' computes in float32, float64, not in 'bfloat16'"),
        ({"mode": "slow"}, "the NumPy backend has the modes fast and reference, not 'slow'"),
        ({"compile": True}, "the NumPy backend compiles nothing: its option 'compile' is false"),
        ({"compile": "perhaps"}, "option 'compile' of backend 'numpy' is true or false, not 'perhaps'"),
    ],
)
def test_what_numpy_cannot_do_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        create(**options)
