"""The catalogue of classic mistakes proves the suite and serves the diagnosis."""

from functools import cache

from gpt2spec_conformance.mutants import (
    accumulation,
    activation,
    attention,
    beams,
    decode,
    dropout,
    equivalent,
    filters,
    initial,
    int8,
    layout,
    loss,
    machinery,
    norm,
    on_device,
    optimizer,
    schedule,
    structure,
)
from gpt2spec_conformance.mutants.fault import Mutant, MutatedSubject

FAMILIES = (
    activation,
    norm,
    attention,
    layout,
    structure,
    loss,
    accumulation,
    optimizer,
    schedule,
    initial,
    dropout,
    decode,
    filters,
    beams,
    on_device,
    int8,
    machinery,
    equivalent,
)
"""The modules with a kind of mistake each, and last the one with variants that are right."""


@cache
def catalogue() -> dict[str, Mutant]:
    """Every mutant by name."""
    return {mutant.name: mutant for module in FAMILIES for mutant in module.MUTANTS}


__all__ = ["FAMILIES", "Mutant", "MutatedSubject", "catalogue"]
