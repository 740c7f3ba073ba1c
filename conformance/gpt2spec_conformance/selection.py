"""The selection of cases for a subject: those that the user asks for, as far as they are meant for it."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from gpt2spec.errors import ConfigError, nearest
from gpt2spec_conformance.case import Case
from gpt2spec_conformance.cases import all_cases
from gpt2spec_conformance.level import LEVELS
from gpt2spec_conformance.subject import Subject


def select_cases(levels: Sequence[str] = (), patterns: Sequence[str] = ()) -> tuple[Case, ...]:
    """The cases of some levels with an id that matches a pattern (`*`, `?`, `[...]`); without either, all.

    Raises `ConfigError` for a level that is none and for a pattern that matches nothing.
    """
    for level in levels:
        if level not in LEVELS:
            raise ConfigError(f"there is no level {level!r}{nearest(level, LEVELS)}; there are {', '.join(LEVELS)}")
    cases = [case for case in all_cases() if not levels or case.level in levels]
    for pattern in patterns:
        if not fnmatch.filter([case.id for case in cases], pattern):
            ids = [case.id for case in cases]
            raise ConfigError(f"no case is called {pattern!r}{nearest(pattern, ids)}; `--list` shows them")
    return tuple(case for case in cases if not patterns or any(fnmatch.fnmatchcase(case.id, p) for p in patterns))


def claims(subject: Subject, level: str) -> bool:
    """Whether the subject supports anything of a level, in which case it must support everything."""
    return any(subject.supports(case.operation) for case in all_cases() if case.level == level)


def applies(case: Case, subject: Subject) -> bool:
    """Whether a case is meant for a subject: its level is, and only backends are asked for tensor operations."""
    return LEVELS[case.level].applies(subject) and (case.operation != "backend" or subject.supports("backend"))
