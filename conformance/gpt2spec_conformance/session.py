"""A session puts cases to one subject and says what it did wrong."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version

from gpt2spec.errors import GPT2SpecError
from gpt2spec.files import sha256_of_file
from gpt2spec_conformance.case import Case
from gpt2spec_conformance.cases import all_cases
from gpt2spec_conformance.diagnosis import diagnose
from gpt2spec_conformance.expected import ExpectedFailure
from gpt2spec_conformance.findings import CaseReport, Header, SessionReport, Status
from gpt2spec_conformance.judge import BUDGETS
from gpt2spec_conformance.level import LEVELS
from gpt2spec_conformance.runner import Result, run_cases
from gpt2spec_conformance.selection import applies
from gpt2spec_conformance.subject import Subject


def run_session(
    subject: Subject,
    cases: Sequence[Case],
    *,
    expected: Mapping[str, ExpectedFailure] | None = None,
    command: str = "",
    progress: Callable[[Case], None] = lambda case: None,
) -> SessionReport:
    """Puts cases to a subject and finds out what it did wrong.

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
    """Reports a result in the light of the expected failures: one that passes is wrong."""
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
        tensors=result.tensors,
        reason=known.reason if known else "",
        link=known.link if known else "",
    )


def make_header(subject: Subject, planned: int, command: str = "") -> Header:
    """Everything that is known before the first case."""
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
    """The versions of the packages that a backend requires, or that a subject says it uses."""
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
