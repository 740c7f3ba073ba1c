"""The catalogue of classic mistakes: it proves the suite, and it is the diagnosis."""

from functools import cache

from gpt2spec_conformance.mutants import activation
from gpt2spec_conformance.mutants.fault import Mutant, MutatedSubject


@cache
def catalogue() -> dict[str, Mutant]:
    """Every mutant by name."""
    return {mutant.name: mutant for module in (activation,) for mutant in module.MUTANTS}


__all__ = ["Mutant", "MutatedSubject", "catalogue"]
