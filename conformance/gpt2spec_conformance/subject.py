"""What is judged: a `Subject`, which somebody's own class becomes by deriving from it, or a `BackendSubject`.

These are the names that other projects import; `subjects` has what they stand for.
"""

from gpt2spec_conformance.subjects.backend import BackendSubject
from gpt2spec_conformance.subjects.interface import OPERATIONS, Subject, backend_of
from gpt2spec_conformance.subjects.loading import load_subject

__all__ = ["OPERATIONS", "BackendSubject", "Subject", "backend_of", "load_subject"]
