"""The suite as a whole: what is frozen, our own backends before it, the judge, and the diagnosis put to blind tests."""

import importlib.util
import json
import types
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import numpy as np
import pytest
from gpt2spec_conformance import int8
from gpt2spec_conformance.case import Case, case, declared_in
from gpt2spec_conformance.cases import all_cases
from gpt2spec_conformance.cases.int8 import uneven
from gpt2spec_conformance.diagnosis import diagnose
from gpt2spec_conformance.judge import BUDGETS, budget, compare
from gpt2spec_conformance.level import LEVELS
from gpt2spec_conformance.mutants import MutatedSubject, catalogue
from gpt2spec_conformance.runner import Result, run_case, run_cases
from gpt2spec_conformance.selection import applies
from gpt2spec_conformance.subject import BackendSubject, Subject, load_subject

from gpt2spec.errors import ConfigError
from gpt2spec.ops import TensorOps
from gpt2spec.plugins import load_backend

FROZEN = json.loads(BUDGETS.read_text())
BACKENDS = ["numpy", "torch", "jax", "tinygrad"]
MISTAKES = [mutant for mutant in catalogue().values() if not mutant.right]
INT8 = [case for case in all_cases() if case.level == "int8"]


def answers_to_what_applies(subject: Subject) -> list[Result]:
    return list(run_cases([case for case in all_cases() if applies(case, subject)], subject))


# ---------------------------------------------------------------------- what is frozen


def test_the_cases_are_those_that_are_frozen() -> None:
    assert [case.id for case in all_cases()] == list(FROZEN["cases"])
    assert len({case.id for case in all_cases()}) == len(all_cases())
    assert {case.level for case in all_cases()} == set(LEVELS)


DECLARATIONS = """
from gpt2spec_conformance.case import case, product

@case("a.{weights}.{size}", level="inference", operation="logits", each=product(weights=("x", "y"), size=(1, 2)))
def first(subject, size):
    '''Of {weights} weights
    the first.

    What else is to be said is no part of it.
    '''
    return {"size": size}

@case("b.{weights}", level="inference", operation="logits", each=product(weights=("x", "y")))
def second(subject):
    '''Second.'''

@case("c", level="train", operation="logits", truth=lambda answer: {"size": 5})
def third(subject):
    '''Third.'''

@case("d.{size}", level="train", operation="logits", truth=lambda answer, size: {"size": size}, each=product(size=(3,)))
@case("e", level="train", operation="logits")
def fourth(subject):
    '''Fourth.'''
"""


def test_cases_are_declared_on_the_functions_that_ask_them() -> None:
    module = types.ModuleType("declarations")
    exec(DECLARATIONS, vars(module))
    found = list(declared_in(module))
    assert [case.id for case in found] == ["a.x.1", "a.x.2", "b.x", "a.y.1", "a.y.2", "b.y", "c", "d.3", "e"]
    assert [found[0].summary, found[3].summary, found[-1].summary] == [
        "of x weights the first",
        "of y weights the first",
        "fourth",
    ]
    assert [case.ask(Subject()) for case in found[:2]] == [{"size": 1}, {"size": 2}]
    assert [case.truth and case.truth({}) for case in found[5:]] == [None, {"size": 5}, {"size": 3}, None]


def test_a_case_of_a_level_that_is_none_is_refused_where_it_is_declared() -> None:
    with pytest.raises(ValueError, match=r"case a\.b is of level 'inferrence'; there are inference, gradient"):
        case("a.b", level="inferrence", operation="logits")


def test_every_right_implementation_stays_at_a_quarter_of_its_budget() -> None:
    """One half of the release gate. The other, that mutants reach four budgets, is in test_conformance_mutants."""
    over = {
        id: (name, error)
        for id, found in FROZEN["measured"].items()
        for name, error in found.items()
        if error > FROZEN["cases"][id] / 4
    }
    assert over == {}
    implementations = {id: len(found) for id, found in FROZEN["measured"].items()}
    assert {id: count for id, count in implementations.items() if count != (4 if id.startswith("int8") else 6)} == {}


def test_the_oracle_was_confirmed_by_another_implementation() -> None:
    confirmed = FROZEN["provenance"]["oracle-differences"]
    assert max(confirmed.values()) < 1e-13
    for family in ("model.logits", "model.taps", "loss.mean", "gradient.weights", "decode.cache"):
        assert any(id.startswith(family) for id in confirmed)


def test_a_case_without_a_budget_is_our_mistake_and_not_the_subjects() -> None:
    case = Case("model.unknown", "inference", "logits", "nothing", lambda subject: {"x": np.zeros(1)})
    with pytest.raises(ConfigError, match=r"model\.unknown has no budget"):
        run_case(case, BackendSubject(load_backend("numpy")))


# ---------------------------------------------------------------------- our own backends


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.timeout(1200)
def test_our_backends_conform(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    results = answers_to_what_applies(BackendSubject(load_backend(name)))
    assert [(r.id, r.status, r.message) for r in results if r.status != "passed"] == []
    assert len(results) == len(all_cases()) - len(INT8)


def test_pytorch_conforms_when_it_compiles_nothing() -> None:
    """Whoever calls it operation by operation has other kernels than those that `test_our_backends_conform` judges."""
    pytest.importorskip("torch", exc_type=ImportError)
    subject = BackendSubject(load_backend("torch", device="cpu", compile=False))
    families = ("operations", "contract", "model", "loss", "gradient", "dropout")
    results = list(run_cases([case for case in all_cases() if case.family in families], subject))
    assert [(r.id, r.status, r.message) for r in results if r.status != "passed"] == []


@pytest.mark.parametrize("options", [{}, {"compile": False}, {"dtype": "bfloat16"}], ids=str)
def test_int8_decoding_is_what_it_says(options: dict[str, Any]) -> None:
    """It is tested in float32 and bfloat16, with and without the compiled kernel."""
    pytest.importorskip("torch", exc_type=ImportError)
    results = answers_to_what_applies(BackendSubject(load_backend("torch", device="cpu", int8=True, **options)))
    assert [(r.id, r.status, r.message) for r in results if r.status != "passed"] == []
    assert [r.id for r in results] == [case.id for case in INT8]


def test_weights_of_int8_cases_are_clear_of_where_rounding_turns() -> None:
    """Otherwise the way in which an implementation divides and multiplies could change a weight by a step."""
    for weight in (w for name, w in uneven().items() if w.ndim == 2 and name != "wpe.weight"):
        exact = weight.T if weight.shape == (61, 24) else weight
        in_steps = exact / int8.steps(exact)
        assert np.abs(np.abs(in_steps % 1.0) - 0.5).min() > 0.01
        assert np.abs(in_steps).max() <= 127.0 + 1e-4


def test_the_definitions_conform_in_float64() -> None:
    subject = BackendSubject(load_backend("numpy", dtype="float64", mode="reference"), "reference")
    results = answers_to_what_applies(subject)
    assert [(r.id, r.status, r.message) for r in results if r.status != "passed"] == []


# ---------------------------------------------------------------------- dropout by a kernel of the backend's own

GIVEN = next(case for case in all_cases() if case.id == "dropout.masks.given")


def drawing(shape: Sequence[int], rate: float, key: Any) -> np.ndarray:
    """The factors of such a kernel, which draws its own numbers."""
    kept = np.random.default_rng(abs(hash((key, tuple(shape))))).random(shape) >= rate
    return kept.astype(np.float32) / np.float32(1.0 - rate)


def dropout_kernel(x: Any, rate: float, key: Any) -> Any:
    return x if key is None or rate == 0.0 else x * drawing(x.shape, rate, key)


def attention_kernel(ops: TensorOps, drop: Callable[..., Any]) -> Callable[..., Any]:
    """The definition, but for the dropout of its weights."""

    def attend(q: Any, k: Any, v: Any, *, dropout: float = 0.0, **settings: Any) -> Any:
        with mock.patch.object(ops, "dropout", drop):
            return TensorOps.causal_attention(ops, q, k, v, dropout=dropout, **settings)

    return attend


def with_kernels(**kernels: Callable[..., Any]) -> BackendSubject:
    backend = load_backend("numpy")
    for name, kernel in kernels.items():
        setattr(backend.ops, name, kernel)
    return BackendSubject(backend)


def test_dropout_that_takes_no_numbers_cannot_be_given_any() -> None:
    result = run_case(GIVEN, with_kernels(dropout=dropout_kernel))
    assert (result.status, result.error) == ("inapplicable", None)
    assert result.message == "dropout is a kernel of the backend's own, which takes no numbers from random_uniform"


def test_attention_that_takes_no_numbers_for_its_weights_cannot_be_given_any() -> None:
    subject = with_kernels()
    ops = subject.backend.ops
    ops.causal_attention = attention_kernel(ops, dropout_kernel)  # type: ignore[method-assign]
    result = run_case(GIVEN, subject)
    assert (result.status, result.error) == ("inapplicable", None)
    assert result.message == "attention drops its weights in a kernel that takes no numbers from random_uniform"
    ops.causal_attention = attention_kernel(ops, lambda x, rate, key: x)  # type: ignore[method-assign]
    result = run_case(GIVEN, subject)
    draws = next(tensor for tensor in result.tensors if tensor.name == "draws")
    assert (result.status, draws.found, draws.expected) == ("failed", 3.0, 4.0)


# ---------------------------------------------------------------------- the judge


def test_the_worst_tensor_and_its_worst_value_are_told() -> None:
    right = {"a": np.ones((2, 3)), "b": np.full((2, 3), 2.0)}
    wrong = {"a": np.ones((2, 3)), "b": np.array([[2.0, 2.0, 2.0], [2.0, 5.0, 2.0]])}
    worst = compare(wrong, right, "whole", "float32")[0]
    assert (worst.name, worst.index, worst.found, worst.expected) == ("b", (1, 1), 5.0, 2.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_fail(value: float) -> None:
    right = {"a": np.ones(3)}
    assert compare({"a": np.array([1.0, value, 1.0])}, right, "rows", "float32")[0].error == np.inf


class Silent(Subject):
    """Has nothing to say."""


class Crashing(Subject):
    def logits(self, config: Any, params: Any, tokens: np.ndarray) -> np.ndarray:
        raise RuntimeError("out of ideas\nand more")


def test_a_subject_without_operations_passes_nothing() -> None:
    assert {result.status for result in run_cases(all_cases(), Silent())} == {"unsupported"}


def test_a_crash_is_no_failure_and_no_pass() -> None:
    (case,) = [case for case in all_cases() if case.id == "model.logits.probe.L2"]
    result = run_case(case, Crashing())
    assert (result.status, result.message) == ("error", "RuntimeError: out of ideas")


@pytest.mark.parametrize("path", ["nowhere", "nowhere:subject", "json:nothing", "json:dumps"])
def test_a_subject_that_is_none_is_told_in_one_line(path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_subject(path)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- the diagnosis


def results_of(*names: str) -> list[Result]:
    subject = MutatedSubject(load_backend("numpy"), [catalogue()[name] for name in names])
    return answers_to_what_applies(subject)


def test_nine_of_ten_mistakes_are_named_first() -> None:
    """Every eighth of the catalogue, which goes by families: all of them take some minutes."""
    chosen = MISTAKES[::8]
    missed = []
    for mutant in chosen:
        found = diagnose(results_of(mutant.name), "float32").suspects
        if not found or found[0].mutant != mutant.name:
            missed.append((mutant.name, [suspect.mutant for suspect in found]))
    assert len(missed) <= len(chosen) // 10, missed


def test_two_mistakes_are_both_named() -> None:
    found = diagnose(results_of("gelu-erf", "mask-shifted"), "float32")
    assert set(found.suspects[0].mutant.split(" + ")) == {"gelu-erf", "mask-shifted"}
    assert found.first_divergence.startswith("attention output of block 0")


def test_nothing_is_explained_where_nothing_failed() -> None:
    assert diagnose(list(run_cases(all_cases()[:20], BackendSubject(load_backend("numpy")))), "float32").suspects == ()


def test_a_mistake_that_is_in_no_catalogue_is_at_least_located() -> None:
    class Strange(BackendSubject):
        def taps(self, config: Any, params: Any, tokens: np.ndarray) -> dict[str, np.ndarray]:
            found = super().taps(config, params, tokens)
            return {name: x * (1.37 if name == "h.1.mlp" else 1.0) for name, x in found.items()}

    results = list(run_cases(all_cases(), Strange(load_backend("numpy"))))
    found = diagnose(results, "float32")
    assert found.first_divergence.startswith("MLP output of block 1")


def test_budgets_are_in_epsilons_of_the_subjects_own_dtype() -> None:
    (case,) = [case for case in all_cases() if case.id == "model.logits.probe.L2"]
    single = BackendSubject(load_backend("numpy"))
    single.dtype = "float64"  # a lie
    assert run_case(case, single).status == "failed"
    assert budget(case, "float32") == budget(case, "float64")
