"""This module prints and writes results of `gpt2spec eval`, with protocol, standard error and published scores."""

import json
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2spec.tasks.evaluate import Result
    from gpt2spec.tasks.registry import TaskListing
    from gpt2spec.tasks.task import Published

WIDTH = 110


def list_text(listings: Iterable["TaskListing"]) -> str:
    """A list of tasks, each with one line about it and where to get its data; or why it is broken."""
    blocks = []
    for listing in listings:
        if listing.plugin.fault or listing.info is None:
            blocks.append(f"{listing.name}: broken ({listing.plugin}): {listing.plugin.fault}")
        else:
            blocks.append(f"{listing.name}: {listing.info.summary}\n{indented('data: ' + listing.info.data)}")
    return "\n".join(blocks)


def result_text(result: "Result", size: str | None) -> str:
    """The scores of one task. `size` names the released model of the same shape, if there is one."""
    from gpt2spec.tasks.report import figure

    lines = [f"{result.task}: {result.examples:,} example{'s' * (result.examples != 1)} of {result.data}"]
    for score in result.scores:
        lines.append(f"  {score.name}  {figure(score)}")
        lines.append(indented(f"protocol: {score.protocol}"))
        lines.append(indented(f"published: {published_text(score.published, size)}"))
    return "\n".join(lines)


def published_text(published: "Published | None", size: str | None) -> str:
    """Published scores to compare with: that of the same model, or else those of all models."""
    from gpt2spec.tasks.report import NOTHING

    if published is None:
        return NOTHING
    values = {model: value for model, value in published.values.items() if model == size} or published.values
    figures = ", ".join(f"{value:g} ({model})" for model, value in values.items())
    return f"{figures}, {published.source}" + (f"; {published.caveat}" if published.caveat else "")


def indented(text: str) -> str:
    """The text in indented lines of a moderate width."""
    return textwrap.fill(text, WIDTH, initial_indent="    ", subsequent_indent="      ", break_on_hyphens=False)


def write_report(path: Path, about: dict[str, Any], results: Sequence["Result"]) -> None:
    """Write all results as one JSON object; numbers that are not finite become null."""
    from gpt2spec.files import atomic_write
    from gpt2spec.tasks.report import result_json

    report = {**about, "results": [result_json(result) for result in results]}
    with atomic_write(path) as file:
        file.write((json.dumps(report, indent=2, allow_nan=False) + "\n").encode())
