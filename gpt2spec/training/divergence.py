"""This module detects runs that diverge: figures that are not finite, or far above those of earlier steps."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpt2spec.errors import GPT2SpecError
from gpt2spec.training.run import Run
from gpt2spec.training.saved import what_is_saved

MOST_SKIPS = 10
"""More refused updates in a row than this end the run."""
_REMEDY = "Start a new run with a smaller --lr, or with gradient clipping (--set optimizer.clip=1.0)"


class DivergedError(GPT2SpecError):
    """The loss is not finite any more, or far above its former values."""


def check_finite(run: Path, step: int, values: Mapping[str, Any]) -> None:
    """Raise `DivergedError` unless all is finite: losses before they are logged, weights before they are saved."""
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise DivergedError(
                f"training has diverged: {name} is no longer finite at step {step} ({what_is_saved(run)}). {_REMEDY}"
            )


class SpikeGuard:
    """Ends a run at a spike, or leaves out the update."""

    def __init__(self, run: Run, limit: float, skips: bool, message: Callable[[str], None]) -> None:
        """Guard `run`.

        Args:
            run: its history tells a spike, and counts the updates that are left out.
            limit: standard deviations from which a figure is a spike; 0 is never.
            skips: whether updates are left out where there is a spike, instead of ending the run.
            message: shows a line.
        """
        self._run, self._limit, self.skips, self._message = run, limit, skips, message

    def accept(self, loss: float, grad_norm: float) -> bool:
        """Whether to make an update with these figures, which are not a spike."""
        history = self._run.history
        name = history.spike(loss, grad_norm)
        history.skips = history.skips + 1 if name else 0
        if name:
            value = {"loss": loss, "grad_norm": grad_norm}[name]
            self._message(f"step {self._run.step:>6}  skipped: {name} is {value:.4g}")
        if history.skips > MOST_SKIPS:
            saved = what_is_saved(self._run.out)
            raise DivergedError(
                f"training has diverged: {history.skips} updates in a row were skipped ({saved}). {_REMEDY}"
            )
        return name is None

    def check(self, line: Mapping[str, Any]) -> None:
        """Raise `DivergedError` where the figures of a step are no numbers, or a spike that is to end the run."""
        out, step, figures = self._run.out, line["step"], {name: line[name] for name in ("loss", "grad_norm")}
        check_finite(out, step, figures)
        if not self.skips and (name := self._run.history.spike(**figures)):
            raise DivergedError(
                f"{name} is {line[name]:.4g} at step {step}, more than {self._limit:g} standard "
                f"deviations above the steps before ({what_is_saved(out)}). Resume with --on-spike skip to leave "
                "out such updates, or with a larger --spike"
            )
