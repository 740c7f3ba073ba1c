"""The findings of a session, as data that every report is made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gpt2spec_conformance.diagnosis import Diagnosis
from gpt2spec_conformance.judge import JudgedTensor
from gpt2spec_conformance.level import LEVELS

Status = Literal["passed", "failed", "error", "unsupported", "inapplicable", "xfailed", "xpassed"]
"""The status of a `Result`; of an expected failure "xfailed", or "xpassed" if the case passed after all."""
LevelStatus = Literal["passed", "excepted", "partial", "failed", "not claimed"]
"""How a subject stands at a level; see `LevelReport`."""
Verdict = Literal["passed", "failed", "incomplete"]
WRONG: frozenset[Status] = frozenset({"failed", "error", "unsupported", "xpassed"})
"""The statuses that no case of a claimed level may have."""


@dataclass(frozen=True)
class CaseReport:
    """A case's result as reports show it; see `runner.Result` for what is not explained here.

    Attributes:
        summary: what holds if the case passes.
        reason: why it was expected to fail; empty where it was not.
        link: where the expected failure is being worked on.
    """

    id: str
    level: str
    summary: str
    status: Status
    error: float | None = None
    budget: float | None = None
    message: str = ""
    seconds: float = 0.0
    tensors: tuple[JudgedTensor, ...] = ()
    reason: str = ""
    link: str = ""

    @property
    def family(self) -> str:
        """The part of the id before the first dot."""
        return self.id.partition(".")[0]

    @property
    def ratio(self) -> float | None:
        """The error divided by the budget, wrong above 1; None where no number was judged."""
        if self.error is None or self.budget is None:
            return None
        if self.budget == 0.0:
            return 0.0 if self.error == 0.0 else float("inf")
        return self.error / self.budget


@dataclass(frozen=True)
class LevelReport:
    """How a subject stands at one level.

    Attributes:
        level: which.
        status: "not claimed" where the subject supports nothing of it; "failed" where a case did not pass, an
            unsupported one included; "partial" where what was run passed but not all was run; "excepted" where all
            but expected failures passed; otherwise "passed". Inapplicable cases count neither way.
        counts: cases by status.
        of: cases of this level in the suite that apply to the subject.
    """

    level: str
    status: LevelStatus
    counts: Mapping[Status, int]
    of: int


@dataclass(frozen=True)
class Header:
    """The circumstances of a session: who was judged, by what and where.

    Attributes:
        subject: the subject's name.
        dtype: what it computes in.
        command: the command line that runs this session; empty where there is none.
        backend: name of the backend, or empty.
        device: the backend's device, or empty.
        versions: of the packages that computed, by name.
        gpt2spec: version of the specification.
        python: version.
        platform: operating system and machine.
        manifest: SHA-256 of what the suite asks.
        budgets: SHA-256 of the budgets, empty where there are none.
        started: date and time, UTC.
        planned: number of cases to run.
        suite: number of cases that apply to the subject, by level.
    """

    subject: str
    dtype: str
    command: str
    backend: str
    device: str
    versions: Mapping[str, str]
    gpt2spec: str
    python: str
    platform: str
    manifest: str
    budgets: str
    started: str
    planned: int
    suite: Mapping[str, int]


@dataclass(frozen=True)
class SessionReport:
    """All findings of a session.

    Attributes:
        header: who was judged.
        cases: in the order in which they ran.
        complete: it was not interrupted.
        diagnosis: which mistake this looks like; None where no answer was wrong, or it was
            interrupted.
        seconds: how long it took.
    """

    header: Header
    cases: tuple[CaseReport, ...]
    complete: bool = True
    diagnosis: Diagnosis | None = None
    seconds: float = 0.0

    @property
    def levels(self) -> tuple[LevelReport, ...]:
        """The levels of which a case ran, in order."""
        return tuple(
            level_report(level, [case for case in self.cases if case.level == level], self.header.suite[level])
            for level in LEVELS
            if any(case.level == level for case in self.cases)
        )

    @property
    def verdict(self) -> Verdict:
        """The verdict is "passed" only if a case ran and every case of every claimed level is right."""
        if not self.complete:
            return "incomplete"
        claimed = {level.status for level in self.levels} - {"not claimed"}
        return "passed" if claimed and "failed" not in claimed else "failed"

    def is_wrong(self, case: CaseReport) -> bool:
        """Whether the case stands against the verdict: unsupported ones only within a claimed level."""
        claimed = {level.level for level in self.levels if level.status != "not claimed"}
        return case.status in WRONG and case.level in claimed


def level_report(level: str, cases: Sequence[CaseReport], of: int) -> LevelReport:
    """Judges a level by its cases that ran, out of `of` in the suite."""
    counts = Counter(case.status for case in cases)
    status: LevelStatus
    if set(counts) <= {"unsupported", "inapplicable"}:
        status = "not claimed"
    elif WRONG & set(counts):
        status = "failed"
    elif not counts["passed"]:
        status = "not claimed"
    elif len(cases) < of:
        status = "partial"
    else:
        status = "excepted" if counts["xfailed"] else "passed"
    return LevelReport(level, status, dict(counts), of)
