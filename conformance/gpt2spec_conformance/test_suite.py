"""What `pytest --pyargs gpt2spec_conformance` collects: a test for each case of the suite."""

from collections.abc import Callable, Mapping

import pytest

from gpt2spec_conformance.case import Case
from gpt2spec_conformance.expected import ExpectedFailure
from gpt2spec_conformance.pytest_plugin import check, parametrize_from_options
from gpt2spec_conformance.subject import Subject


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The cases, as the command line asks for them."""
    parametrize_from_options(metafunc)


def test_conformance(case: Case, make_subject: Callable[[], Subject], expected: Mapping[str, ExpectedFailure]) -> None:
    """One case of the suite, put to the subject."""
    check(case, make_subject(), expected)
