"""The figures of steps are losses, gradient norms and speed, which are fetched from the device now and then.

Nothing else waits for the device: losses stay on it until they are fetched.
"""

import math
import time
from typing import Any

from gpt2spec.training.divergence import SpikeGuard
from gpt2spec.training.reports import Reports
from gpt2spec.training.run import Run
from gpt2spec.training.usage import usage
from gpt2spec.training.validation import Validation

SHOW_EVERY = 0.5
"""Seconds between two times at which figures are fetched from the device and shown."""


class Figures:
    """The figures of a run's steps: a `Callback`."""

    def __init__(
        self, run: Run, validation: Validation, guard: SpikeGuard, reports: Reports, device_flops: float | None
    ) -> None:
        """Report figures of `run`.

        Args:
            run: whose steps they are.
            validation: is run where it is due, when the figures before have been written.
            guard: checks the figures.
            reports: is given them.
            device_flops: the most floating-point operations a second that the device can do, for `mfu`.
        """
        self._run, self._validation, self._guard, self._reports = run, validation, guard, reports
        self._device_flops = device_flops
        self._context = run.settings.window()
        self._tokens_per_step = run.settings.windows_per_step() * self._context
        self._pending: list[dict[str, Any]] = []
        self.restart_clock()

    def restart_clock(self) -> None:
        """Count training time from now on."""
        self._since = time.perf_counter()

    def add(self, record: dict[str, Any]) -> None:
        """Take what an update has returned; its figures are on the device."""
        self._pending.append(record)

    def due(self, step: int) -> bool:
        """Figures are due before a validation, and twice a second."""
        return self._validation.due(step) or time.perf_counter() - self._since >= SHOW_EVERY

    def run(self) -> None:
        """Fetch the figures of the steps since the last time, and report them; with the last one, validate if due."""
        if not self._pending:
            return
        fetched = [{name: self._number(record.pop(name)) for name in ("loss", "grad_norm")} for record in self._pending]
        speed = len(fetched) * self._tokens_per_step / max(1e-9, time.perf_counter() - self._since)
        pairs = zip(self._pending, fetched, strict=True)
        *lines, last = [self._line(record, figures, speed) for record, figures in pairs]
        for line in lines:
            self._check(line)
            self._reports.step(line)
        self._check(last)
        run, validation = self._run, self._validation
        last |= usage(run.backend, run.config, self._context, speed, self._device_flops)
        if validates := validation.due(run.step):
            validation.run()
            last["val_loss"] = validation.loss
        self._reports.step(last)
        if validates:
            self._reports.message(validation.message())
        self._pending.clear()
        self.restart_clock()

    def _line(self, record: dict[str, Any], figures: dict[str, float], speed: float) -> dict[str, Any]:
        """The metrics of a step; figures of an update that was left out are None where they are no numbers."""
        line = {"step": record["step"], "loss": figures["loss"], "lr": record["lr"]}
        line |= {"grad_norm": figures["grad_norm"], "tokens_per_second": round(speed, 1)}
        if record.get("skipped"):
            line |= {name: None for name, value in figures.items() if not math.isfinite(value)} | {"skipped": True}
        return line

    def _check(self, line: dict[str, Any]) -> None:
        if "skipped" not in line:
            self._guard.check(line)

    def _number(self, x: Any) -> float:
        return float(self._run.backend.to_numpy(x))
