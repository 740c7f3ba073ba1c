"""The suite as pytest tests: `pytest --pyargs gpt2spec_conformance --gpt2-backend NAME`, or in a file of one's own:

    from gpt2spec_conformance.pytest_plugin import conformance_cases

    test_conformance = conformance_cases(lambda: MySubject())

pytest loads this module in every project that has gpt2spec installed, so it imports nothing heavy until asked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gpt2spec_conformance.level import DEFAULT_LEVELS, LEVELS, level_names

if TYPE_CHECKING:
    from gpt2spec_conformance.case import Case
    from gpt2spec_conformance.expected import ExpectedFailure
    from gpt2spec_conformance.subject import Subject

NOT_ASKED_FOR = "no subject: give --gpt2-backend NAME or --gpt2-subject MODULE:FACTORY"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declares the options, which mean what they mean to `gpt2spec conform`."""
    group = parser.getgroup("gpt2spec", "conformance to GPT-2")
    group.addoption("--gpt2-backend", metavar="NAME", help="judge this backend; `gpt2spec backends` lists them")
    group.addoption("--gpt2-subject", metavar="MODULE:FACTORY", help="judge the subject that FACTORY() makes")
    group.addoption(
        "--gpt2-level",
        metavar="LEVEL",
        action="append",
        default=[],
        help=f"only cases of {level_names()}; repeatable",
    )
    group.addoption("--gpt2-expected", metavar="FILE", type=Path, help="TOML file of failures that are known")


def conformance_cases(
    make_subject: Callable[[], Subject], *, levels: Sequence[str] = (), expected: str | Path | None = None
) -> Callable[..., None]:
    """A test function with a case of the suite for each parameter; assign it to a name that begins with `test`.

    Args:
        make_subject: makes who is judged; called once, by the first test that runs.
        levels: only cases of these levels; if empty, of those that are put by default (see `level.LEVELS`).
        expected: TOML file of failures that are known (see `expected.read_expected`).

    Raises:
        ConfigError: there is no such level, or the file of expected failures is not as it should be.
    """
    from gpt2spec_conformance.expected import read_expected
    from gpt2spec_conformance.selection import select_cases

    subject = functools.cache(make_subject)
    known = read_expected(Path(expected)) if expected else {}

    @pytest.mark.parametrize("case", as_parameters(select_cases(levels or DEFAULT_LEVELS)))
    def test_conformance(case: Case) -> None:
        check(case, subject(), known)

    return test_conformance


def parametrize_from_options(metafunc: pytest.Metafunc) -> None:
    """Gives the test of `test_suite` the cases and the subject that the command line asks for, or a skip."""
    from gpt2spec.errors import GPT2SpecError
    from gpt2spec_conformance.expected import read_expected
    from gpt2spec_conformance.selection import select_cases

    options = metafunc.config.option
    if not (options.gpt2_backend or options.gpt2_subject):
        skip = pytest.param(None, None, {}, id="no-subject", marks=pytest.mark.skip(reason=NOT_ASKED_FOR))
        metafunc.parametrize(("case", "make_subject", "expected"), [skip])
        return
    try:
        make_subject = functools.cache(functools.partial(_subject, options))
        make_subject()  # a mistake in its name is reported once, not by every case
        expected = read_expected(options.gpt2_expected) if options.gpt2_expected else {}
        cases = select_cases(options.gpt2_level or DEFAULT_LEVELS)
    except GPT2SpecError as error:
        raise pytest.Collector.CollectError(f"gpt2spec: error: {error}") from None
    rows = [pytest.param(case, make_subject, expected, id=case.id) for case in cases]
    metafunc.parametrize(("case", "make_subject", "expected"), rows)


def as_parameters(cases: Iterable[Case]) -> list[Any]:
    """The cases as parameters of a test, with their ids."""
    return [pytest.param(case, id=case.id) for case in cases]


def check(case: Case, subject: Subject, expected: Mapping[str, ExpectedFailure]) -> None:
    """Runs a case as the body of a test: its outcome becomes the test's, without a traceback.

    A case that the subject does not support fails, unless the subject supports nothing of the case's level.
    """
    from gpt2spec_conformance.runner import run_case
    from gpt2spec_conformance.selection import applies, claims
    from gpt2spec_conformance.session import report_case

    if not applies(case, subject):
        needs_backend = case.operation == "backend" and subject.backend is None
        audience = "backends" if needs_backend else LEVELS[case.level].audience
        pytest.skip(f"only for {audience}, and {subject.name} is none")
    report = report_case(case, run_case(case, subject), expected)
    if report.status == "xfailed":
        pytest.xfail(f"{report.reason} ({report.link})")
    if report.status == "inapplicable":
        pytest.skip(f"not applicable: {report.message}")
    if report.status == "unsupported" and not claims(subject, case.level):
        pytest.skip(f"level {case.level} is not claimed: {subject.name} supports nothing of it")
    if report.status != "passed":
        pytest.fail(f"{case.id} ({report.status}): {report.message}\nwhat must hold: {case.summary}", pytrace=False)


def _subject(options: Any) -> Subject:
    """The subject that the command line asks for."""
    from gpt2spec.errors import ConfigError
    from gpt2spec.plugins import load_backend
    from gpt2spec_conformance.subject import BackendSubject
    from gpt2spec_conformance.subjects.loading import local_subject

    if options.gpt2_backend and options.gpt2_subject:
        raise ConfigError("give --gpt2-backend or --gpt2-subject, not both")
    if options.gpt2_subject:
        return local_subject(options.gpt2_subject)
    return BackendSubject(load_backend(options.gpt2_backend))
