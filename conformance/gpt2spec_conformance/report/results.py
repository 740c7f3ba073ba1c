"""Results are JSON lines: for each session a header, a line a case, and a footer without which it was cut off.

Numbers that JSON does not have are the texts "inf", "-inf" and "nan". The tensors of an answer are its "parts" here.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gpt2spec.errors import GPT2SpecError
from gpt2spec_conformance.diagnosis import Diagnosis, Suspect
from gpt2spec_conformance.findings import CaseReport, Header, SessionReport
from gpt2spec_conformance.judge import JudgedTensor


class ResultsError(GPT2SpecError):
    """A file of results that is missing, damaged or cut off."""


def dump_results(sessions: Iterable[SessionReport]) -> str:
    """The text of results.jsonl: one session after the other."""
    lines = [json.dumps(_plain(line), allow_nan=False) for session in sessions for line in _lines(session)]
    return "".join(f"{line}\n" for line in lines)


def read_results(path: Path) -> list[SessionReport]:
    """The sessions in a results.jsonl. Raises `ResultsError` for a file that is not whole."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"cannot read {path}: {error}") from None
    return parse_results(text, str(path))


def parse_results(text: str, source: str) -> list[SessionReport]:
    """The sessions in the text of a results.jsonl; `source` is what messages call it."""
    sessions: list[SessionReport] = []
    header: Header | None = None
    cases: list[CaseReport] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            entry = json.loads(line)
            kind = entry.pop("type")
            if (kind == "header") != (header is None):
                raise ValueError(f"a {kind} line out of place")
            if kind == "header":
                header, cases = Header(**entry), []
            elif kind == "case":
                cases.append(_case(entry))
            elif kind == "footer" and header is not None:
                sessions.append(_session(header, cases, entry))
                header = None
            else:
                raise ValueError(f"a line of type {kind!r}")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ResultsError(f"line {number} of {source} is damaged: {error}") from None
    if header is not None or not sessions:
        raise ResultsError(f"{source} has no footer at its end: it was cut off, and says nothing about conformance")
    return sessions


def _lines(session: SessionReport) -> Iterator[dict[str, Any]]:
    yield {"type": "header", **dataclasses.asdict(session.header)}
    for case in session.cases:
        fields = dataclasses.asdict(case)
        yield {"type": "case", **{"parts" if name == "tensors" else name: value for name, value in fields.items()}}
    yield {
        "type": "footer",
        "verdict": session.verdict,
        "levels": [dataclasses.asdict(level) for level in session.levels],
        "cases": len(session.cases),
        "complete": session.complete,
        "diagnosis": dataclasses.asdict(session.diagnosis) if session.diagnosis else None,
        "seconds": session.seconds,
    }


def _plain(value: Any) -> Any:
    """Replaces the numbers in `value` that JSON lacks by texts."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _case(entry: dict[str, Any]) -> CaseReport:
    tensors = tuple(
        JudgedTensor(t["name"], float(t["error"]), tuple(t["index"]), float(t["found"]), float(t["expected"]))
        for t in entry.pop("parts")
    )
    numbers = {"error": _number(entry["error"]), "budget": _number(entry["budget"])}
    return CaseReport(**{**entry, **numbers, "tensors": tensors})


def _session(header: Header, cases: list[CaseReport], footer: dict[str, Any]) -> SessionReport:
    if footer["cases"] != len(cases):
        raise ValueError(f"{len(cases)} cases before a footer that counts {footer['cases']}")
    session = SessionReport(
        header, tuple(cases), footer["complete"], _diagnosis(footer["diagnosis"]), float(footer["seconds"])
    )
    if session.verdict != footer["verdict"]:
        raise ValueError(f"the footer says {footer['verdict']}, its cases say {session.verdict}")
    return session


def _diagnosis(entry: dict[str, Any] | None) -> Diagnosis | None:
    if entry is None:
        return None
    suspects = tuple(Suspect(**{**suspect, "distance": float(suspect["distance"])}) for suspect in entry["suspects"])
    return Diagnosis(suspects, entry["first_divergence"])
