"""Every case of the suite, in the order in which they are put: what explains most comes first."""

from functools import cache

from gpt2spec_conformance.case import LEVELS, Case
from gpt2spec_conformance.cases import contract, decode, dropout, gradient, int8, model, on_device, operations, train


@cache
def all_cases() -> tuple[Case, ...]:
    """The cases by level, and within a level as their modules list them."""
    modules = (operations, contract, model, gradient, train, dropout, decode, on_device, int8)
    found = [case for module in modules for case in module.cases()]
    return tuple(sorted(found, key=lambda case: LEVELS.index(case.level)))
