"""The history of a run's losses, which is read back from the metrics when the run is resumed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from gpt2spec.training.retention import best_step
from gpt2spec.training.spikes import WINDOW, SpikeDetector


class History:
    """Validation losses, and the last losses and gradient norms.

    Attributes:
        val_losses: by step.
        exhausted: whether the last `patience` validations brought no new lowest loss.
        skips: how many of the last updates in a row were refused.
    """

    def __init__(self, lines: Iterable[dict[str, Any]] = (), patience: int = 0, spike: float = 0.0) -> None:
        """Begin after the steps that `lines` of the metrics describe.

        Args:
            lines: the metrics of the steps done.
            patience: validations without a new lowest loss after which a run ends; 0 is never.
            spike: standard deviations above the mean from which a figure is a spike; 0 is never.
        """
        lines = list(lines)
        self._patience = patience
        self.val_losses = {line["step"]: line["val_loss"] for line in lines if "val_loss" in line}
        self.exhausted = self._exhausted()
        last = lines[-2 * WINDOW :]
        self._detectors = {
            name: SpikeDetector(spike, (math.nan if line[name] is None else line[name] for line in last))
            for name in ("loss", "grad_norm")
        }
        self.skips = 0
        for line in lines:
            self.skips = self.skips + 1 if line.get("skipped") else 0

    def spike(self, loss: float, grad_norm: float) -> str | None:
        """Count a step. Returns the name of a figure that is a spike or not finite, if there is one."""
        values = {"loss": loss, "grad_norm": grad_norm}
        departing = [name for name, value in values.items() if self._detectors[name].departs(value)]
        for name, value in values.items():
            self._detectors[name].add(value)
        return departing[0] if departing else None

    def add_validation(self, step: int, loss: float) -> None:
        """Count a validation."""
        self.val_losses[step] = loss
        self.exhausted = self._exhausted()

    def best(self) -> int | None:
        """The step of the lowest validation loss, if there was a validation."""
        return best_step(self.val_losses)

    def _exhausted(self) -> bool:
        best = self.best() or 0
        return bool(self._patience) and sum(step > best for step in self.val_losses) >= self._patience
