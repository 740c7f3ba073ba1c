"""A subject is what is judged: somebody's own subclass of `Subject`, or a `BackendSubject`.

Other projects import these names; they are defined in `subjects`.
"""

from gpt2spec_conformance.subjects.backend import BackendSubject
from gpt2spec_conformance.subjects.interface import OPERATIONS, Subject, backend_of
from gpt2spec_conformance.subjects.loading import load_subject

__all__ = ["OPERATIONS", "BackendSubject", "Subject", "backend_of", "load_subject"]
