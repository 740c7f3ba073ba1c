"""A session: cases put to one subject, and what came of it, as data that every report is made from."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import platform
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal, cast

from gpt2spec.errors import ConfigError, GPT2SpecError, nearest
from gpt2spec.files import sha256_of_file
from gpt2spec_conformance.case import Case
from gpt2spec_conformance.cases import all_cases
from gpt2spec_conformance.diagnosis import Diagnosis, diagnose
from gpt2spec_conformance.judge import BUDGETS, Part
from gpt2spec_conformance.level import LEVELS
from gpt2spec_conformance.runner import Result, run_cases
from gpt2spec_conformance.subject import Subject, load_subject

Status = Literal["passed", "failed", "error", "unsupported", "inapplicable", "xfailed", "xpassed"]
"""A `Result`'s, or, where the failure was expected: "xfailed", and "xpassed" if it passed after all."""
LevelStatus = Literal["passed", "excepted", "partial", "failed", "not claimed"]
"""How a subject stands at a level; see `LevelReport`."""
Verdict = Literal["passed", "failed", "incomplete"]
WRONG: frozenset[Status] = frozenset({"failed", "error", "unsupported", "xpassed"})
"""What no case of a claimed level may be."""


@dataclass(frozen=True)
class ExpectedFailure:
    """A failure that is known: why it is so, and where it is being worked on."""

    reason: str
    link: str


@dataclass(frozen=True)
class CaseReport:
    """A case's result as reports show it; see `runner.Result` for what is not explained here.

    Attributes:
        summary: what holds if the case passes.
        reason: of an expected failure.
        link: of an expected failure.
    """

    id: str
    level: str
    summary: str
    status: Status
    error: float | None = None
    budget: float | None = None
    message: str = ""
    seconds: float = 0.0
    parts: tuple[Part, ...] = ()
    reason: str = ""
    link: str = ""

    @property
    def family(self) -> str:
        """The part of the id before the first dot."""
        return self.id.partition(".")[0]

    @property
    def ratio(self) -> float | None:
        """Error by budget: above 1 is wrong. None where no number was judged."""
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
    """Who was judged, by what and where.

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
    """Everything that a session found.

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
        """Passed only if a case ran and every case of every claimed level is right."""
        if not self.complete:
            return "incomplete"
        claimed = {level.status for level in self.levels} - {"not claimed"}
        return "passed" if claimed and "failed" not in claimed else "failed"

    def is_wrong(self, case: CaseReport) -> bool:
        """Whether the case stands against the verdict: unsupported ones only within a claimed level."""
        claimed = {level.level for level in self.levels if level.status != "not claimed"}
        return case.status in WRONG and case.level in claimed


def level_report(level: str, cases: Sequence[CaseReport], of: int) -> LevelReport:
    """Judge a level by the cases of it that ran; the suite has `of`."""
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


def claims(subject: Subject, level: str) -> bool:
    """Whether the subject supports anything of a level; then it must support everything."""
    return any(subject.supports(case.operation) for case in all_cases() if case.level == level)


def applies(case: Case, subject: Subject) -> bool:
    """Whether a case is meant for a subject: its level is, and only backends are asked for tensor operations."""
    return LEVELS[case.level].applies(subject) and (case.operation != "backend" or subject.supports("backend"))


def run_session(
    subject: Subject,
    cases: Sequence[Case],
    *,
    expected: Mapping[str, ExpectedFailure] | None = None,
    command: str = "",
    progress: Callable[[Case], None] = lambda case: None,
) -> SessionReport:
    """Put cases to a subject and find out what it did wrong.

    Ctrl-C ends the session early: the report has what was found and is not complete.

    Args:
        subject: who is judged.
        cases: what is asked, in this order; those that do not apply to the subject are left out.
        expected: failures that are known, by case id.
        command: the command line that does the same, for the report.
        progress: called before each case.
    """
    cases = [case for case in cases if applies(case, subject)]
    header = make_header(subject, len(cases), command)
    start = time.perf_counter()
    results: list[Result] = []
    diagnosis = None
    complete = False
    try:
        for result in run_cases(cases, subject, progress):
            results.append(result)  # one by one: Ctrl-C keeps what there is
        if any(result.status == "failed" for result in results):
            diagnosis = diagnose(results, subject.dtype)
        complete = True
    except KeyboardInterrupt:
        pass
    reports = tuple(report_case(case, result, expected or {}) for case, result in zip(cases, results, strict=False))
    return SessionReport(header, reports, complete, diagnosis, time.perf_counter() - start)


def report_case(case: Case, result: Result, expected: Mapping[str, ExpectedFailure]) -> CaseReport:
    """A result in the light of what is expected: an expected failure that passes is wrong."""
    status: Status = result.status
    message = result.message
    known = expected.get(case.id)
    if known and status != "inapplicable":
        status = "xpassed" if status == "passed" else "xfailed"
    if known and status == "xpassed":
        message = f"this failure was expected ({known.reason}) but the case passes: take it off the list"
    return CaseReport(
        id=case.id,
        level=case.level,
        summary=case.summary,
        status=status,
        error=result.error,
        budget=result.budget,
        message=message,
        seconds=result.seconds,
        parts=result.parts,
        reason=known.reason if known else "",
        link=known.link if known else "",
    )


def make_header(subject: Subject, planned: int, command: str = "") -> Header:
    """What can be said before the first case."""
    backend = subject.backend
    return Header(
        subject=subject.name,
        dtype=subject.dtype,
        command=command,
        backend=backend.name if backend else "",
        device=str(backend.device) if backend else "",
        versions=framework_versions(subject),
        gpt2spec=version("gpt2spec"),
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        manifest=manifest_hash(),
        budgets=sha256_of_file(BUDGETS) if BUDGETS.exists() else "",
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        planned=planned,
        suite={level: sum(case.level == level and applies(case, subject) for case in all_cases()) for level in LEVELS},
    )


def framework_versions(subject: Subject) -> dict[str, str]:
    """Versions of what a backend requires, or of what the subject says that it uses."""
    from gpt2spec.cli import backends as listing
    from gpt2spec.plugins import default_registry

    if subject.backend is None:
        return {name: version(name) for name in subject.frameworks}
    try:
        return {"numpy": version("numpy"), **listing.framework_versions(default_registry.find(subject.backend.name))}
    except GPT2SpecError:
        return {"numpy": version("numpy")}


def manifest_hash() -> str:
    """SHA-256 of every case's id, level, operation, metric and summary."""
    manifest = [
        [case.id, case.level, case.operation, case.metric, case.unit or "", case.summary] for case in all_cases()
    ]
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


def local_subject(path: str) -> Subject:
    """`load_subject`, with modules of the current folder to be found, as `python -m` finds them."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    return load_subject(path)


def select_cases(levels: Sequence[str] = (), patterns: Sequence[str] = ()) -> tuple[Case, ...]:
    """The cases of some levels with an id that matches a pattern (`*`, `?`, `[...]`); without either, all.

    Raises `ConfigError` for a level that is none and for a pattern that matches nothing.
    """
    for level in levels:
        if level not in LEVELS:
            raise ConfigError(f"there is no level {level!r}{nearest(level, LEVELS)}; there are {', '.join(LEVELS)}")
    cases = [case for case in all_cases() if not levels or case.level in levels]
    for pattern in patterns:
        if not fnmatch.filter([case.id for case in cases], pattern):
            ids = [case.id for case in cases]
            raise ConfigError(f"no case is called {pattern!r}{nearest(pattern, ids)}; `--list` shows them")
    return tuple(case for case in cases if not patterns or any(fnmatch.fnmatchcase(case.id, p) for p in patterns))


def read_expected(path: Path) -> dict[str, ExpectedFailure]:
    """The expected failures in a TOML file, by case id.

    The file has a table `[[expected]]` for each, with `id`, `reason` and `link`. Raises `ConfigError` for a file
    that cannot be read, an entry without one of them, and a case that the suite does not have.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read the expected failures in {path}: {error}") from None
    entries = table.get("expected")
    if set(table) - {"expected"} or not isinstance(entries, list):
        raise ConfigError(f"{path} must hold a table [[expected]] with id, reason and link for each failure")
    found: dict[str, ExpectedFailure] = {}
    for number, entry in enumerate(entries, 1):
        id, known = _expected_failure(entry, f"entry {number} of {path}")
        if id in found:
            raise ConfigError(f"{path} has case {id} twice")
        found[id] = known
    return found


def _expected_failure(entry: object, where: str) -> tuple[str, ExpectedFailure]:
    keys = ("id", "reason", "link")
    if not isinstance(entry, dict) or set(entry) - set(keys):
        raise ConfigError(f"{where} must have id, reason and link and nothing else")
    for key in keys:
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise ConfigError(f"{where} has no {key}; an expected failure needs id, reason and link")
    ids = [case.id for case in all_cases()]
    if entry["id"] not in ids:
        raise ConfigError(f"{where}: there is no case {entry['id']!r}{nearest(entry['id'], ids)}")
    return cast(str, entry["id"]), ExpectedFailure(entry["reason"], entry["link"])
