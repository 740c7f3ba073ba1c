"""The Markdown report is for summaries of CI runs and for issues."""

from collections.abc import Iterator, Sequence

from gpt2spec_conformance.findings import SessionReport
from gpt2spec_conformance.report import summary


def render(sessions: Sequence[SessionReport]) -> str:
    """The text of report.md."""
    lines = ["# Conformance to GPT-2"]
    for session, name in zip(sessions, summary.subject_names(sessions), strict=True):
        lines += ["", f"## {_escape(name)}", "", *_session(session)]
    return "\n".join(lines) + "\n"


def _session(session: SessionReport) -> Iterator[str]:
    header = session.header
    yield f"**{_escape(summary.verdict_line(session))}**"
    yield ""
    yield f"{_escape(summary.who(session))}; gpt2spec {header.gpt2spec}, Python {header.python}, {header.platform}"
    yield ""
    yield from _table(("Level", "Status"), [(level.level, summary.level_line(level)) for level in session.levels], "--")
    yield ""
    rows = [
        (family.name, family.status, f"{family.counts.get('passed', 0)} of {len(family.cases)}", family.ratio)
        for family in summary.families(session)
    ]
    yield from _table(("Family", "Status", "Passed", "Worst error / budget"), rows, "--rr")
    if failed := summary.failures(session):
        yield ""
        yield from _table(("Case", "What is wrong"), [(case.id, summary.what_is_wrong(case)) for case in failed], "--")
    if left_out := summary.inapplicable(session):
        yield ""
        yield from (f"- {case.id}: {_escape(summary.what_is_wrong(case))}" for case in left_out)
    if diagnosis := summary.diagnosis_lines(session):
        yield ""
        yield from (f"- {_escape(line)}" for line in diagnosis)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> Iterator[str]:
    """A table whose columns are aligned as `align` says: `-` to the left, `r` to the right."""
    yield _row(head)
    yield _row(["---:" if a == "r" else "---" for a in align])
    yield from (_row([_escape(cell) for cell in row]) for row in rows)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    r"""Escapes `text` so that no character of it is markup."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{character}" if character in r"\`*_[]|" else character for character in text)
