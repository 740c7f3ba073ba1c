"""The words that several reports share: families, levels, the verdict, the suspects."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gpt2spec_conformance.diagnosis import Suspect
from gpt2spec_conformance.findings import CaseReport, LevelReport, SessionReport, Status

FamilyStatus = Literal["passed", "excepted", "failed", "unsupported", "inapplicable"]
WORDS: Mapping[Status, str] = {
    "passed": "passed",
    "failed": "failed",
    "error": "crashed",
    "unsupported": "unsupported",
    "inapplicable": "not applicable",
    "xfailed": "failed as expected",
    "xpassed": "passed unexpectedly",
}


@dataclass(frozen=True)
class Family:
    """The cases of one family in one session.

    Attributes:
        name: the family.
        cases: in the order in which they ran.
        status: the worst that is true of them; "excepted" has expected failures, "inapplicable" nothing else.
        counts: cases by status.
        worst: the case with the largest error for its budget; None where no number was judged.
    """

    name: str
    cases: tuple[CaseReport, ...]
    status: FamilyStatus
    counts: Mapping[Status, int]
    worst: CaseReport | None

    @property
    def ratio(self) -> str:
        """The largest error divided by its budget, as text."""
        return format_ratio(self.worst)


def families(session: SessionReport) -> tuple[Family, ...]:
    """The families of a session, in the order in which they ran."""
    names = dict.fromkeys(case.family for case in session.cases)
    return tuple(_family(name, [case for case in session.cases if case.family == name]) for name in names)


def _family(name: str, cases: Sequence[CaseReport]) -> Family:
    counts = Counter(case.status for case in cases)
    judged = [case for case in cases if case.ratio is not None]
    worst = max(judged, key=lambda case: case.ratio or 0.0, default=None)
    status: FamilyStatus = "passed"
    if counts["failed"] or counts["error"] or counts["xpassed"]:
        status = "failed"
    elif counts["unsupported"]:
        status = "unsupported"
    elif counts["xfailed"]:
        status = "excepted"
    elif not counts["passed"]:
        status = "inapplicable"
    return Family(name, tuple(cases), status, dict(counts), worst)


def format_ratio(case: CaseReport | None) -> str:
    """The error of a case divided by its budget, in three digits, or `-`."""
    return "-" if case is None or case.ratio is None else f"{case.ratio:.3g}"


def who(session: SessionReport) -> str:
    """The subject with what it ran on: `numpy (numpy 2.4.6; cpu; float32)`."""
    header = session.header
    versions = ", ".join(f"{name} {version}" for name, version in header.versions.items())
    return f"{header.subject} ({'; '.join(filter(None, [versions, header.device, header.dtype]))})"


def level_line(level: LevelReport) -> str:
    """One line about a level: `passed, 13 of 13 cases`."""
    if level.status == "not claimed":
        return "not claimed"
    excepted = level.counts.get("xfailed", 0)
    rest = f" and {excepted} failed as expected" if excepted else ""
    if left_out := level.counts.get("inapplicable", 0):
        rest += f", {left_out} not applicable"
    return f"{level.status}, {level.counts.get('passed', 0)} of {level.of} cases passed{rest}"


def verdict_line(session: SessionReport) -> str:
    """The verdict in one sentence."""
    if session.verdict == "incomplete":
        return f"INCOMPLETE: interrupted after {len(session.cases)} of {session.header.planned} cases"
    wrong = sum(map(session.is_wrong, session.cases))
    if wrong:
        return f"FAILED: {wrong} of {len(session.cases)} cases did not pass"
    if session.verdict == "failed":
        return "FAILED: no case passed; the subject supports nothing that was asked"
    levels = ", ".join(level.level for level in session.levels if level.status != "not claimed")
    partial = any(level.status == "partial" for level in session.levels)
    return f"PASSED: {'the selected cases of ' if partial else ''}{levels}"


def failures(session: SessionReport) -> list[CaseReport]:
    """The cases that stand against the verdict."""
    return [case for case in session.cases if session.is_wrong(case)]


def inapplicable(session: SessionReport) -> list[CaseReport]:
    """The cases that could not be asked; they count neither way."""
    return [case for case in session.cases if case.status == "inapplicable"]


def what_is_wrong(case: CaseReport) -> str:
    """The message of a case, after its status unless that is a wrong answer."""
    return case.message if case.status == "failed" else f"{WORDS[case.status]}: {case.message}"


def reproduce(session: SessionReport, case: CaseReport) -> str:
    """The command line that runs one case alone; empty where the session had none."""
    return f"{session.header.command} --case {case.id}" if session.header.command else ""


def suspect_line(suspect: Suspect) -> str:
    """A suspect in one line."""
    if not suspect.explains:
        return f"perhaps {suspect.mutant}: {suspect.summary}; the specification: {suspect.spec}"
    return (
        f"matches {suspect.mutant}: {suspect.summary}; explains {suspect.explains} of {suspect.of}; "
        f"the specification: {suspect.spec}"
    )


def diagnosis_lines(session: SessionReport) -> list[str]:
    """The first divergence and the suspects, likeliest first; empty where nothing failed."""
    if session.diagnosis is None:
        return []
    first = [f"first divergence: {session.diagnosis.first_divergence}"] if session.diagnosis.first_divergence else []
    suspects = list(map(suspect_line, session.diagnosis.suspects))
    return [*first, *(suspects or ["no known mistake gives these answers"])]


def subject_names(sessions: Iterable[SessionReport]) -> list[str]:
    """A name for each session, numbered where a subject occurs twice."""
    names = [session.header.subject for session in sessions]
    return [f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name for i, name in enumerate(names)]
