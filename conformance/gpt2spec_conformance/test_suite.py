"""pytest collects this module by `pytest --pyargs gpt2spec_conformance`: a test for each case of the suite."""

from collections.abc import Callable, Mapping

import pytest

from gpt2spec_conformance.case import Case
from gpt2spec_conformance.expected import ExpectedFailure
from gpt2spec_conformance.pytest_plugin import check, parametrize_from_options
from gpt2spec_conformance.subject import Subject


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives the test the cases that the command line asks for."""
    parametrize_from_options(metafunc)


def test_conformance(case: Case, make_subject: Callable[[], Subject], expected: Mapping[str, ExpectedFailure]) -> None:
    """Puts one case of the suite to the subject."""
    check(case, make_subject(), expected)
