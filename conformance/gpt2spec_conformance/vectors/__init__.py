"""Implementations in any language are judged by files: questions go out, and answers come back.

`export` writes every question that a file can put: the model's shape, weights and tokens, or an optimizer's
settings and gradients. Nobody's answers are exported. `judge` reads what an implementation wrote and puts the very
same cases to a subject that answers from those files.

A question is known by what it asks, so cases that ask the same thing share one file of answers.
"""

from gpt2spec_conformance.vectors.exporting import export
from gpt2spec_conformance.vectors.judging import VectorSubject, judge, read_subject
from gpt2spec_conformance.vectors.questions import FAMILIES, OPERATIONS, exportable_cases, questionnaire

__all__ = [
    "FAMILIES",
    "OPERATIONS",
    "VectorSubject",
    "export",
    "exportable_cases",
    "judge",
    "questionnaire",
    "read_subject",
]
