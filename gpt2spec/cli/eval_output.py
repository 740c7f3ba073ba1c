"""What `gpt2spec eval` prints and writes: every number with its protocol, standard error and published scores."""

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
    """Every task with one line about it and where its data are; of a broken one, why."""
    blocks = []
    for listing in listings:
        if listing.plugin.fault or listing.info is None:
            blocks.append(f"{listing.name}: broken ({listing.plugin}): {listing.plugin.fault}")
        else:
            blocks.append(f"{listing.name}: {listing.info.summary}\n{indented('data: ' + listing.info.data)}")
    return "\n".join(blocks)


def result_text(result: "Result", size: str | None) -> str:
    """The scores of one task. `size` is the released model's that was evaluated, if it was one."""
    from gpt2spec.tasks.report import figure

    lines = [f"{result.task}: {result.examples:,} example{'s' * (result.examples != 1)} of {result.data}"]
    for score in result.scores:
        lines.append(f"  {score.name}  {figure(score)}")
        lines.append(indented(f"protocol: {score.protocol}"))
        lines.append(indented(f"published: {published_text(score.published, size)}"))
    return "\n".join(lines)


def published_text(published: "Published | None", size: str | None) -> str:
    """What it may be compared with: the score of the same model, or those of all models."""
    from gpt2spec.tasks.report import NOTHING

    if published is None:
        return NOTHING
    values = {model: value for model, value in published.values.items() if model == size} or published.values
    figures = ", ".join(f"{value:g} ({model})" for model, value in values.items())
    return f"{figures}, {published.source}" + (f"; {published.caveat}" if published.caveat else "")


def indented(text: str) -> str:
    """Lines of a moderate width, set in."""
    return textwrap.fill(text, WIDTH, initial_indent="    ", subsequent_indent="      ", break_on_hyphens=False)


def write_report(path: Path, about: dict[str, Any], results: Sequence["Result"]) -> None:
    """All results as one JSON object; numbers that are not finite are null."""
    from gpt2spec.files import atomic_write
    from gpt2spec.tasks.report import result_json

    report = {**about, "results": [result_json(result) for result in results]}
    with atomic_write(path) as file:
        file.write((json.dumps(report, indent=2, allow_nan=False) + "\n").encode())
