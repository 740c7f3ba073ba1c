"""Every classic mistake of the catalogue is found by the case that is there for it, and right variants are not."""

import importlib
import importlib.util
import math
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gpt2spec_conformance import runner
from gpt2spec_conformance.case import Case, Nonconformance
from gpt2spec_conformance.cases import all_cases
from gpt2spec_conformance.mutants import FAMILIES, Mutant, MutatedSubject, catalogue
from gpt2spec_conformance.mutants.fault import mutated_core
from gpt2spec_conformance.mutants.int8 import REFERENCE
from gpt2spec_conformance.runner import Result, run_case
from gpt2spec_conformance.selection import applies
from gpt2spec_conformance.subject import BackendSubject, Subject

from gpt2spec import accumulation, loss, model
from gpt2spec.plugins import load_backend

CASES = {case.id: case for case in all_cases()}
WRONG = [mutant for mutant in catalogue().values() if not mutant.right]
RIGHT = [mutant for mutant in catalogue().values() if mutant.right]
MARGIN = 4.0
"""A mistake is this many budgets from the truth, or the case is no proof."""


def replaced(mutant: Mutant) -> tuple[str, ...]:
    return (*mutant.ops, *mutant.core, *mutant.backend, *mutant.subject)


def mutated(backend: str, *mutants: Mutant) -> MutatedSubject:
    return MutatedSubject(load_backend(backend, device="cpu"), mutants)


def assert_killed(result: Result) -> None:
    assert result.status == "failed", f"{result.id}: {result.status} ({result.message})"
    if result.error is not None and result.budget:
        assert result.error >= MARGIN * result.budget, f"{result.id}: {result.error / result.budget:.3g} budgets only"


@pytest.fixture(scope="module")
def numpy_subject() -> BackendSubject:
    return BackendSubject(load_backend("numpy"))


@pytest.fixture(scope="module")
def jax_subject() -> Iterator[BackendSubject]:
    pytest.importorskip("jax", reason="JAX is not installed")
    yield BackendSubject(load_backend("jax", device="cpu"))


# ------------------------------------------------------------------ the catalogue


def test_every_mutant_has_a_name_of_its_own() -> None:
    names = [mutant.name for family in FAMILIES for mutant in family.MUTANTS]
    assert len(names) == len(set(names)) == len(catalogue())


@pytest.mark.parametrize("mutant", catalogue().values(), ids=list(catalogue()))
def test_a_mutant_says_what_it_is(mutant: Mutant) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9./-]*", mutant.name)
    assert mutant.summary and mutant.spec and replaced(mutant)
    assert mutant.right == (mutant.killed_by == "") == mutant.name.startswith("right-")
    assert mutant.right or mutant.killed_by in CASES


# ------------------------------------------------------------------ wrong ones


def right_for(case: str, subject: BackendSubject) -> BackendSubject:
    """The subject itself, or the like that rounds weights to int8 where the case is for those."""
    return subject if CASES[case].level != "int8" else mutated(subject.backend.name, REFERENCE)


@pytest.mark.parametrize("case", sorted({mutant.killed_by for mutant in WRONG}))
def test_the_right_backend_passes(case: str, numpy_subject: BackendSubject) -> None:
    result = run_case(CASES[case], right_for(case, numpy_subject))
    assert result.status == "passed", result.message


@pytest.mark.parametrize("case", sorted({mutant.killed_by for mutant in WRONG}))
def test_the_right_backend_passes_where_functions_are_compiled(case: str, jax_subject: BackendSubject) -> None:
    result = run_case(CASES[case], right_for(case, jax_subject))
    assert result.status == "passed", result.message


@pytest.mark.parametrize("mutant", WRONG, ids=lambda mutant: mutant.name)
def test_a_mistake_is_found_on_numpy(mutant: Mutant) -> None:
    assert_killed(run_case(CASES[mutant.killed_by], mutated("numpy", mutant)))


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
@pytest.mark.parametrize("mutant", WRONG, ids=lambda mutant: mutant.name)
def test_a_mistake_is_found_where_functions_are_compiled(mutant: Mutant) -> None:
    assert_killed(run_case(CASES[mutant.killed_by], mutated("jax", mutant)))


# ------------------------------------------------------------------ right ones


@pytest.mark.parametrize("mutant", RIGHT, ids=lambda mutant: mutant.name)
def test_what_is_no_mistake_passes_every_case(mutant: Mutant) -> None:
    subject = mutated("numpy", mutant)
    cases = [case for case in all_cases() if applies(case, subject)]
    wrong = [result for result in runner.run_cases(cases, subject) if result.status != "passed"]
    assert not wrong, [f"{result.id}: {result.message}" for result in wrong]


# ------------------------------------------------------------------ the way mutants are made


def test_mutants_compose() -> None:
    """The second one replaces what the first one left: neither hides the other."""
    names = ("head-scaled", "head-temperature"), ("positions-missing", "embedding-scaled")
    for pair in names:
        one, other = (catalogue()[name] for name in pair)
        case = CASES[one.killed_by]
        both = run_case(case, mutated("numpy", one, other))
        assert_killed(both)
        assert both.answer is not None
        for mutant in (one, other):
            alone = run_case(case, mutated("numpy", mutant)).answer
            assert alone is not None
            assert float(abs(alone["logits"] - both.answer["logits"]).max()) > 1e-3


def test_a_mistake_in_the_core_stays_with_its_subject(numpy_subject: BackendSubject) -> None:
    block, mutant = model.block, catalogue()["post-norm"]
    assert run_case(CASES[mutant.killed_by], mutated("numpy", mutant)).status == "failed"
    assert model.block is block
    with mutated_core([mutant]):
        assert model.block is not block
    assert run_case(CASES[mutant.killed_by], numpy_subject).status == "passed"


def test_a_mutant_names_the_definitions_of_what_it_replaces() -> None:
    """And not an importer, beside which others would keep the right function."""
    for path in dict.fromkeys(path for mutant in catalogue().values() for path in mutant.core):
        owner, _, name = path.rpartition(".")
        function = getattr(pkgutil.resolve_name(owner), name)
        assert f"{function.__module__}.{function.__qualname__}" == path


def test_a_mistake_in_the_core_reaches_importers_that_nobody_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also under another name, and one that is imported while the mistake is there; it leaves them all."""
    monkeypatch.syspath_prepend(tmp_path)
    modules = ("gpt2spec_importer_before", "gpt2spec_importer_meanwhile")
    for module in modules:
        (tmp_path / f"{module}.py").write_text("from gpt2spec.loss import language_model_loss as objective\n")
        monkeypatch.delitem(sys.modules, module, raising=False)
    right = loss.language_model_loss
    before = importlib.import_module(modules[0])
    with mutated_core([catalogue()["targets-not-shifted"]]):
        meanwhile = importlib.import_module(modules[1])
        holders = before.objective, meanwhile.objective, accumulation.language_model_loss
        assert [function is loss.language_model_loss for function in holders] == [True] * 3
        assert loss.language_model_loss is not right
    holders = before.objective, meanwhile.objective, accumulation.language_model_loss
    assert [function is right for function in holders] == [True] * 3
    assert loss.language_model_loss is right


def test_two_mistakes_in_one_function_of_the_core_are_both_there_and_both_go() -> None:
    right = loss.language_model_loss
    one, other = (catalogue()[name] for name in ("targets-not-shifted", "targets-shifted-twice"))
    with mutated_core([one, other]):
        outer = accumulation.language_model_loss
        assert outer.args[0].args[0] is right
    assert accumulation.language_model_loss is loss.language_model_loss is right


def test_a_mutant_that_changes_nothing_survives() -> None:
    nothing = Mutant("nothing", "", "", "model.logits.probe.L1")
    with pytest.raises(AssertionError, match="passed"):
        assert_killed(run_case(CASES[nothing.killed_by], mutated("numpy", nothing)))


# ------------------------------------------------------------------ a judge and backends that say yes to everything


def test_a_judge_that_passes_everything_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "budget", lambda case, dtype: math.inf)
    mutant = catalogue()["gelu-erf"]
    with pytest.raises(AssertionError, match="passed"):
        assert_killed(run_case(CASES[mutant.killed_by], mutated("numpy", mutant)))


def test_a_subject_that_has_nothing_passes_nothing() -> None:
    results = list(runner.run_cases(all_cases(), Subject()))
    assert {result.status for result in results} == {"unsupported"}


def test_a_subject_that_crashes_passes_and_fails_nothing() -> None:
    class Crashing(Subject):
        def logits(self, *args: object) -> None:  # type: ignore[override]
            raise ZeroDivisionError("no")

    result = run_case(CASES["model.logits.probe.L1"], Crashing())
    assert (result.status, result.message) == ("error", "ZeroDivisionError: no")
    with pytest.raises(AssertionError, match="error"):
        assert_killed(result)


def test_a_case_may_judge_by_itself() -> None:
    def ask(subject: Subject) -> dict[str, object]:
        raise Nonconformance("that is not GPT-2")

    case = Case("test.own", "inference", "logits", "", ask, metric="exact")  # type: ignore[arg-type]
    result = run_case(case, mutated("numpy"))
    assert (result.status, result.message) == ("failed", "that is not GPT-2")


def test_float32_that_claims_to_be_float64_is_found() -> None:
    subject = BackendSubject(load_backend("numpy"))
    subject.dtype = "float64"
    assert_killed(run_case(CASES["model.logits.probe.L1"], subject))
