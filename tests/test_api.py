"""The functions for everyday use return plain arrays, or raise an error that says what is wrong."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gpt2spec_conformance.error import EPSILON, activation_error, gradient_errors, whole_error
from gpt2spec_conformance.weights import WEIGHT_SETS, weight_set

import gpt2spec
from gpt2spec.api import check_tokens, compiled_forward
from gpt2spec.config import GPT2Config
from gpt2spec.errors import ConfigError, GPT2SpecError, InputError

BACKEND = gpt2spec.load_backend("numpy")
EXACT = gpt2spec.load_backend("numpy", dtype="float64")
CONFIG = GPT2Config(n_layer=1, n_head=2, n_embd=8, n_ctx=6, vocab_size=11)
PARAMS = weight_set("probe", CONFIG)
TOKENS = [[1, 2, 3], [4, 5, 10]]


def calls(tokens: Any, params: Any = PARAMS) -> dict[str, Callable[[], Any]]:
    return {
        "logits": lambda: gpt2spec.logits(BACKEND, CONFIG, params, tokens),
        "loss_and_gradients": lambda: gpt2spec.loss_and_gradients(BACKEND, CONFIG, params, tokens, TOKENS),
    }


def test_logits_are_a_plain_float32_array_of_its_own() -> None:
    found = gpt2spec.logits(BACKEND, CONFIG, PARAMS, TOKENS)
    assert (type(found), found.dtype, found.shape) == (np.ndarray, np.float32, (2, 3, 11))
    again = gpt2spec.logits(BACKEND, CONFIG, PARAMS, TOKENS)
    assert not np.shares_memory(found, again)
    assert (found == again).all()
    found[:] = 0.0
    assert (gpt2spec.logits(BACKEND, CONFIG, PARAMS, TOKENS) == again).all()


def test_the_loss_is_a_number_and_gradients_are_like_the_weights() -> None:
    loss, gradients = gpt2spec.loss_and_gradients(BACKEND, CONFIG, PARAMS, TOKENS, TOKENS)
    assert type(loss) is float
    assert list(gradients) == list(PARAMS)
    for name, gradient in gradients.items():
        assert (type(gradient), gradient.dtype, gradient.shape) == (np.ndarray, np.float32, PARAMS[name].shape)


def test_float64_comes_as_float64() -> None:
    assert gpt2spec.logits(EXACT, CONFIG, PARAMS, TOKENS).dtype == np.float64
    _, gradients = gpt2spec.loss_and_gradients(EXACT, CONFIG, PARAMS, TOKENS, TOKENS)
    assert {gradient.dtype for gradient in gradients.values()} == {np.dtype(np.float64)}


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.int64, np.uint64])
def test_ids_of_any_integer_type_are_the_same(dtype: type) -> None:
    tokens = np.array(TOKENS, dtype)
    assert (gpt2spec.logits(BACKEND, CONFIG, PARAMS, tokens) == gpt2spec.logits(BACKEND, CONFIG, PARAMS, TOKENS)).all()
    assert check_tokens(CONFIG, tokens).dtype == np.int32


def test_dropout_is_off() -> None:
    assert CONFIG.dropout > 0
    without = CONFIG.replace(dropout=0.0)
    expected = gpt2spec.loss_and_gradients(BACKEND, without, PARAMS, TOKENS, TOKENS)[0]
    assert gpt2spec.loss_and_gradients(BACKEND, CONFIG, PARAMS, TOKENS, TOKENS)[0] == expected
    expected_logits = gpt2spec.logits(BACKEND, without, PARAMS, TOKENS)
    assert (gpt2spec.logits(BACKEND, CONFIG, PARAMS, TOKENS) == expected_logits).all()


def test_arguments_stay_as_they_are() -> None:
    params = {name: array.copy() for name, array in PARAMS.items()}
    tokens = np.array(TOKENS, np.int32)
    for array in (*params.values(), tokens):
        array.flags.writeable = False
    gpt2spec.logits(BACKEND, CONFIG, params, tokens)
    gpt2spec.loss_and_gradients(BACKEND, CONFIG, params, tokens, tokens)
    gpt2spec.generate(BACKEND, CONFIG, params, [[1]], max_new_tokens=2)
    assert list(params) == list(PARAMS)
    assert all((params[name] == PARAMS[name]).all() for name in PARAMS)


def test_the_order_of_the_weights_does_not_matter() -> None:
    shuffled = {name: PARAMS[name] for name in sorted(PARAMS, reverse=True)}
    assert (
        gpt2spec.logits(BACKEND, CONFIG, shuffled, TOKENS) == gpt2spec.logits(BACKEND, CONFIG, PARAMS, TOKENS)
    ).all()
    loss, gradients = gpt2spec.loss_and_gradients(BACKEND, CONFIG, shuffled, TOKENS, TOKENS)
    expected_loss, expected = gpt2spec.loss_and_gradients(BACKEND, CONFIG, PARAMS, TOKENS, TOKENS)
    assert loss == expected_loss
    assert all((gradients[name] == expected[name]).all() for name in PARAMS)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([1, 2], "tokens are integers [B, T], at least one; got int64 [2]"),
        ([[[1]]], "tokens are integers [B, T], at least one; got int64 [1, 1, 1]"),
        ([[1.0]], "tokens are integers [B, T], at least one; got float64 [1, 1]"),
        ([[True]], "tokens are integers [B, T], at least one; got bool [1, 1]"),
        ([["a"]], "tokens are integers [B, T], at least one; got <U1 [1, 1]"),
        (None, "tokens are integers [B, T], at least one; got object []"),
        ([[2**70]], "tokens are integers [B, T], at least one; got object [1, 1]"),
        (np.zeros((0, 3), int), "tokens are integers [B, T], at least one; got int64 [0, 3]"),
        (np.zeros((3, 0), int), "tokens are integers [B, T], at least one; got int64 [3, 0]"),
        ([[1, 2], [3]], "tokens are integers [B, T]; these rows differ in length"),
        ([[1] * 7], "tokens have 7 positions; this model has n_ctx = 6"),
        ([[1, 2], [3, 11]], "tokens[1, 1] is 11; this model's ids go from 0 to 10"),
        ([[1, -1]], "tokens[0, 1] is -1; this model's ids go from 0 to 10"),
        (np.array([[2**63]], np.uint64), "tokens[0, 0] is 9223372036854775808; this model's ids go from 0 to 10"),
        (np.array([[2**32]]), "tokens[0, 0] is 4294967296; this model's ids go from 0 to 10"),
    ],
    ids=str,
)
def test_tokens_that_do_not_fit_are_refused(tokens: Any, message: str) -> None:
    for call in calls(tokens).values():
        with pytest.raises(InputError, match=re.escape(message)):
            call()


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([[1, 2, 3]], "tokens are [2, 3] and targets [1, 3]; they must have the same shape"),
        ([[1, 2], [3, 4]], "tokens are [2, 3] and targets [2, 2]; they must have the same shape"),
        ([[1, 2, 3], [4, 5, 11]], "targets[1, 2] is 11; this model's ids go from 0 to 10"),
        ([[1, 2, 3], [4, 5, -100]], "targets[1, 2] is -100; this model's ids go from 0 to 10"),
        ([[1.0]], "targets are integers [B, T], at least one; got float64 [1, 1]"),
    ],
    ids=str,
)
def test_targets_that_do_not_fit_are_refused(targets: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        gpt2spec.loss_and_gradients(BACKEND, CONFIG, PARAMS, TOKENS, targets)


@pytest.mark.parametrize("function", ["logits", "loss_and_gradients"])
def test_weights_that_do_not_fit_are_refused(function: str) -> None:
    transposed = {**PARAMS, "wte.weight": PARAMS["wte.weight"].T}
    with pytest.raises(InputError, match=re.escape("'wte.weight' has shape [8, 11]; [11, 8] is expected")):
        calls(TOKENS, transposed)[function]()
    with pytest.raises(InputError, match=re.escape("no weight 'h.1.ln_1.weight' and 11 more")):
        calls(TOKENS, weight_set("init", CONFIG.replace(n_layer=2)))[function]()
    with pytest.raises(InputError, match=r"'wte.weight' and 15 more is missing"):
        calls(TOKENS, {})[function]()
    with pytest.raises(InputError, match=r"'wte.weight' is list; a NumPy array of floats is expected"):
        calls(TOKENS, {**PARAMS, "wte.weight": PARAMS["wte.weight"].tolist()})[function]()


def test_a_mistake_is_one_family_of_errors() -> None:
    assert issubclass(InputError, GPT2SpecError)
    assert issubclass(ConfigError, GPT2SpecError)


def test_a_function_is_compiled_once_for_a_backend_and_a_configuration() -> None:
    assert compiled_forward(BACKEND, CONFIG) is compiled_forward(BACKEND, CONFIG.replace())
    assert compiled_forward(BACKEND, CONFIG) is not compiled_forward(EXACT, CONFIG)
    assert compiled_forward(BACKEND, CONFIG) is not compiled_forward(BACKEND, CONFIG.replace(n_ctx=7))


# How the conformance suite measures


def test_an_error_is_that_of_the_worst_row_or_of_the_whole_in_epsilons() -> None:
    expected = np.array([[3.0, 4.0], [300.0, 400.0]])
    found = expected + np.array([[0.05, 0.0], [0.0, 0.5]])
    assert activation_error(found, expected, "float32") * EPSILON["float32"] == pytest.approx(0.01)
    whole = np.sqrt(0.05**2 + 0.5**2) / np.sqrt(25 + 250_000)
    assert whole_error(found, expected, "float64") * EPSILON["float64"] == pytest.approx(whole)
    assert whole_error(expected, expected, "float32") == 0.0
    assert {dtype: EPSILON[dtype] for dtype in ("float32", "float64", "float16")} == {
        dtype: float(np.finfo(dtype).eps) for dtype in ("float32", "float64", "float16")
    }


def test_no_number_hides_an_error() -> None:
    zero, one = np.zeros((2, 2)), np.ones((2, 2))
    for bad in (np.nan, np.inf, -np.inf):
        found = one.copy()
        found[1, 1] = bad
        assert activation_error(found, one, "float32") == whole_error(found, one, "float32") == np.inf
    assert activation_error(zero, zero, "float32") == 0.0
    assert activation_error(one * 1e-30, zero, "float32") == np.inf, "where the truth is zero only zero is right"
    with pytest.raises(InputError, match=re.escape("the shape is [2, 1]; [2, 2] is expected")):
        activation_error(zero[:, :1], zero, "float32")


def test_queries_keys_and_values_are_measured_by_themselves_and_a_key_bias_beside_the_others() -> None:
    expected = {
        "h.0.attn.c_attn.bias": np.array([3.0, 0.0, 4.0]),
        "h.0.attn.c_attn.weight": np.array([[1.0, 2.0, 4.0]]),
    }
    found = {"h.0.attn.c_attn.bias": np.array([3.0, 0.5, 4.0]), "h.0.attn.c_attn.weight": np.array([[1.0, 2.5, 4.0]])}
    errors = {name: e * EPSILON["float32"] for name, e in gradient_errors(found, expected, "float32").items()}
    assert errors == {
        "h.0.attn.c_attn.bias[q]": 0.0,
        "h.0.attn.c_attn.bias[k]": pytest.approx(0.1),
        "h.0.attn.c_attn.bias[v]": 0.0,
        "h.0.attn.c_attn.weight[q]": 0.0,
        "h.0.attn.c_attn.weight[k]": pytest.approx(0.25),
        "h.0.attn.c_attn.weight[v]": 0.0,
    }
    with pytest.raises(InputError, match="the gradients differ in their names: x"):
        gradient_errors({**found, "x": np.ones(1)}, expected, "float32")


def test_the_weight_sets_are_different_and_repeat() -> None:
    sets = {name: weight_set(name, CONFIG) for name in WEIGHT_SETS}
    assert sorted(sets) == ["init", "probe"]
    for name, array in sets["probe"].items():
        assert array.dtype == np.float32
        assert (array == weight_set("probe", CONFIG)[name]).all()
        assert (array != sets["init"][name]).all(), "nothing is left at 0 or 1"
        assert len(np.unique(array)) == array.size
    with pytest.raises(ConfigError, match=r"no weight set 'prob' \(did you mean 'probe'\?\); there are init and probe"):
        weight_set("prob", CONFIG)
