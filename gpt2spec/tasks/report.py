"""This module formats scores as text and as JSON."""

import dataclasses
import math
from typing import Any

from gpt2spec.tasks.evaluate import Result
from gpt2spec.tasks.task import Score

NOTHING = "no published GPT-2 score"


def figure(score: Score) -> str:
    """A score as text: the number with its standard error."""
    error = "no standard error" if math.isnan(score.stderr) else f"{score.stderr:.2g}"
    return f"{score.value:.4g} ± {error}" + ("" if score.count == 1 else f" (n = {score.count:,})")


def result_json(result: Result) -> dict[str, Any]:
    """The scores of one task as JSON. Numbers that are not finite become null."""
    scores = []
    for score in result.scores:
        published = None if score.published is None else dataclasses.asdict(score.published)
        scores.append({**vars(score), "details": dict(score.details), "published": published or NOTHING})
    return finite({"task": result.task, "data": str(result.data), "examples": result.examples, "scores": scores})


def finite(value: Any) -> Any:
    """`value` with None in place of NaN and the infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
