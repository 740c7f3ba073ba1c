"""This module writes all reports of some sessions into a folder."""

from collections.abc import Sequence
from pathlib import Path

from gpt2spec.files import atomic_write, make_folder
from gpt2spec_conformance.findings import SessionReport
from gpt2spec_conformance.report import badge, html, junit, markdown
from gpt2spec_conformance.report.results import dump_results, parse_results

RESULTS = "results.jsonl"


def write_reports(folder: Path, sessions: Sequence[SessionReport]) -> None:
    """Writes results.jsonl, junit.xml, report.md, report.html and a badge for each level into `folder`.

    Each file is written whole or not replaced. Raises `StorageError` where they cannot be written.
    """
    lines = dump_results(sessions)
    read_back = parse_results(lines, RESULTS)
    texts = {
        RESULTS: lines,
        "junit.xml": junit.render(read_back),
        "report.md": markdown.render(read_back),
        "report.html": html.render(read_back),
        **badge.render(read_back),
    }
    make_folder(folder)
    for name, text in texts.items():
        with atomic_write(folder / name) as file:
            file.write(text.encode("utf-8"))
