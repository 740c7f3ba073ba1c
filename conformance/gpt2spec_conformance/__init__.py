"""This suite proves that an implementation is GPT-2, or names the mistake.

A subject is judged: a backend, somebody's own class, or files (`subject`). It is asked questions, and so is a float64
oracle (`cases`, which belong to a `level` each). `runner` puts them, and `judge` measures how far apart the answers are
and holds them to frozen budgets. `mutants` are the classic mistakes: they prove the cases, and when a case fails the
`diagnosis` looks for the mistake that gives the same answers. A `session` puts cases to one subject; its `findings`
are what every `report` is made from.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2spec_conformance.subject import BackendSubject, Subject

__all__ = ["BackendSubject", "Subject"]


def __getattr__(name: str) -> Any:
    """Imports a name when it is asked for, since pytest loads this package in every one of its runs."""
    if name in __all__:
        from gpt2spec_conformance import subject

        return getattr(subject, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
