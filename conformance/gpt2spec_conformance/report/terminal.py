"""The report for terminals is plain text; two runs differ only in the time in the last line."""

from collections.abc import Iterator

from gpt2spec.cli.table import format_table
from gpt2spec_conformance.findings import SessionReport
from gpt2spec_conformance.report import summary

HEAD: tuple[str, ...] = ("FAMILY", "CASES", "PASSED", "FAILED", "UNSUPPORTED", "EXPECTED", "ERROR/BUDGET", "WORST CASE")


def render(session: SessionReport) -> str:
    """Families, levels, failures, diagnosis and verdict."""
    return "\n".join(_lines(session)) + "\n"


def _lines(session: SessionReport) -> Iterator[str]:
    yield f"gpt2spec {session.header.gpt2spec}: {summary.who(session)}"
    yield ""
    yield _family_table(session)
    yield ""
    if session.levels:
        yield format_table([(level.level, summary.level_line(level)) for level in session.levels])
        yield ""
    for case in summary.inapplicable(session):
        yield f"{case.id}: {summary.what_is_wrong(case)}"
    for case in summary.failures(session):
        yield f"{case.id}: {summary.what_is_wrong(case)}"
        if command := summary.reproduce(session, case):
            yield f"    {command}"
    if diagnosis := summary.diagnosis_lines(session):
        yield ""
        yield from diagnosis
    if summary.failures(session) or summary.inapplicable(session):
        yield ""
    yield f"{summary.verdict_line(session)} ({session.seconds:.1f} s)"


def _family_table(session: SessionReport) -> str:
    rows = [HEAD]
    for family in summary.families(session):
        counts = family.counts
        failed = sum(counts.get(status, 0) for status in ("failed", "error", "xpassed"))
        numbers = (len(family.cases), counts.get("passed", 0), failed)
        rest = (counts.get("unsupported", 0), counts.get("xfailed", 0))
        worst = family.worst.id if family.worst else ""
        rows.append((family.name, *map(str, (*numbers, *rest)), family.ratio, worst))
    return format_table(rows, right=(1, 2, 3, 4, 5, 6))
