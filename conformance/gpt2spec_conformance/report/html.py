"""The HTML report is one page without other files: a matrix of subjects and families, and every case below it."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jinja2

from gpt2spec_conformance.findings import SessionReport
from gpt2spec_conformance.report import plot, summary

MOST_TENSORS = 8
"""So many tensors of an answer are shown, the worst ones; results.jsonl has them all."""


def render(sessions: Sequence[SessionReport]) -> str:
    """The text of report.html."""
    columns = list(dict.fromkeys(case.family for session in sessions for case in session.cases))
    subjects = [
        {"name": name, "report": session, "families": {family.name: family for family in summary.families(session)}}
        for name, session in zip(summary.subject_names(sessions), sessions, strict=True)
    ]
    return _template().render(
        subjects=subjects, columns=columns, summary=summary, plot=plot.error_by_layer, most_tensors=MOST_TENSORS
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8"))
