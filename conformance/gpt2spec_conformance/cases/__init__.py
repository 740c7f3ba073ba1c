"""Every case of the suite, in the order in which they are put: what explains most comes first."""

from functools import cache

from gpt2spec_conformance.case import Case, declared_in
from gpt2spec_conformance.cases import contract, decode, dropout, gradient, int8, model, on_device, operations, train
from gpt2spec_conformance.level import LEVELS


@cache
def all_cases() -> tuple[Case, ...]:
    """The cases by level, and within a level as their modules declare them."""
    modules = (operations, contract, model, gradient, train, dropout, decode, on_device, int8)
    found = [case for module in modules for case in declared_in(module)]
    return tuple(sorted(found, key=lambda case: list(LEVELS).index(case.level)))
