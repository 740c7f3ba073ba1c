"""What the steps so far say about the next: read back from the metrics when a run is resumed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from gpt2spec.training.retention import best_step
from gpt2spec.training.settings import RunSettings
from gpt2spec.training.spikes import WINDOW, SpikeDetector

MOST_SKIPS = 10
"""So many refused updates in a row are no spike: the run is lost."""


class History:
    """Validation losses, and the last losses and gradient norms.

    Attributes:
        val_losses: by step.
        skips: updates in a row that were refused, up to now.
    """

    def __init__(self, settings: RunSettings, lines: Iterable[dict[str, Any]]) -> None:
        """`lines` are the metrics of the steps done."""
        lines = list(lines)
        self.patience = settings.patience
        self.val_losses = {line["step"]: line["val_loss"] for line in lines if "val_loss" in line}
        last = lines[-2 * WINDOW :]
        self.detectors = {
            name: SpikeDetector(settings.spike, (math.nan if line[name] is None else line[name] for line in last))
            for name in ("loss", "grad_norm")
        }
        self.skips = 0
        for line in lines:
            self.skips = self.skips + 1 if line.get("skipped") else 0

    def spike(self, loss: float, grad_norm: float) -> str | None:
        """Count a step, and say which of its figures is a spike or no number, if one is."""
        values = {"loss": loss, "grad_norm": grad_norm}
        departing = [name for name, value in values.items() if self.detectors[name].departs(value)]
        for name, value in values.items():
            self.detectors[name].add(value)
        return departing[0] if departing else None

    def best(self) -> int | None:
        """The step of the lowest validation loss."""
        return best_step(self.val_losses)

    def exhausted(self) -> bool:
        """Whether the last `patience` validations brought no new lowest loss."""
        best = self.best()
        return bool(self.patience) and sum(step > (best or 0) for step in self.val_losses) >= self.patience
