"""Badges in the endpoint format of shields.io, one for each level."""

import json
from collections.abc import Sequence

from gpt2spec_conformance.findings import LevelStatus, SessionReport
from gpt2spec_conformance.level import LEVELS

LOOKS: dict[LevelStatus, tuple[str, str]] = {
    "passed": ("passing", "brightgreen"),
    "excepted": ("passing but for expected failures", "yellow"),
    "partial": ("partly tested", "lightgrey"),
    "not claimed": ("not claimed", "lightgrey"),
    "failed": ("failing", "red"),
}
"""The message and colour of a badge by the status of a level."""


def render(sessions: Sequence[SessionReport]) -> dict[str, str]:
    """The badges by file name, of all levels that a session ran."""
    found = {}
    for level in LEVELS:
        statuses = [
            _status(session, report.status)
            for session in sessions
            for report in session.levels
            if report.level == level
        ]
        if statuses:
            found[f"badge-{level}.json"] = _badge(level, statuses)
    return found


def _status(session: SessionReport, status: LevelStatus) -> LevelStatus:
    """The status of a level, which an interrupted session never proves to be passed."""
    return "partial" if not session.complete and status in ("passed", "excepted") else status


def _badge(level: str, statuses: Sequence[LevelStatus]) -> str:
    message, colour = LOOKS[max(statuses, key=list(LOOKS).index)]
    if len(statuses) > 1:
        message = f"{statuses.count('passed')} of {len(statuses)} passing"
    content = {"schemaVersion": 1, "label": f"GPT-2 {level}", "message": message, "color": colour}
    return json.dumps(content, indent=1) + "\n"
