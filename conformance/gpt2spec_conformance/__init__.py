"""Is this GPT-2? The suite that proves it, or names the mistake.

What is judged is a `subject.Subject`: a backend, somebody's own class, or files. `cases` are the questions, put to
the subject and to a float64 oracle alike; `judge` measures how far apart the answers are and holds them to frozen
budgets; `mutants` are the classic mistakes, which prove the cases and are the `diagnosis` when one fails.
`session` and `report` make of it what a person reads.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2spec_conformance.subject import BackendSubject, Subject

__all__ = ["BackendSubject", "Subject"]


def __getattr__(name: str) -> Any:
    """Imported when asked for: pytest loads this package in every one of its runs."""
    if name in __all__:
        from gpt2spec_conformance import subject

        return getattr(subject, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
