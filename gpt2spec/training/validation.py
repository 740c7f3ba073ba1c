"""The validation loss, measured every so many steps and after the last one."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from gpt2spec.api import compiled_loss
from gpt2spec.backend import Backend
from gpt2spec.config import GPT2Config
from gpt2spec.data.batches import Batch
from gpt2spec.training.divergence import check_finite
from gpt2spec.training.run import Run


class Validation:
    """The validations of a run: a `Callback`.

    Attributes:
        loss: what the last one found, in nats per token; None before the first.
    """

    def __init__(self, run: Run, every: int, batches: Callable[[], Iterable[Batch]]) -> None:
        """Validate `run` every so many steps, each time on the same `batches`."""
        self._run, self._every, self._batches = run, every, batches
        self.loss: float | None = None

    def due(self, step: int) -> bool:
        """Validation is due every so many steps, and after the last step."""
        return step % self._every == 0 or step == self._run.settings.steps

    def run(self) -> None:
        """Measure the loss, and add it to the run's history."""
        run = self._run
        self.loss = validation_loss(run.backend, run.config, run.state["params"], self._batches())
        check_finite(run.out, run.step, {"val_loss": self.loss})
        run.history.add_validation(run.step, self.loss)

    def message(self) -> str:
        """The line that a person reads after a validation."""
        assert self.loss is not None
        return (
            f"step {self._run.step:>6}  validation loss {self.loss:.4f}  "
            f"perplexity {math.exp(min(self.loss, 700.0)):,.1f}"
            f"  (unigram entropy {self._run.dataset.unigram_entropy:.4f})"
        )


def validation_loss(backend: Backend, config: GPT2Config, params: Any, batches: Iterable[Batch]) -> float:
    """Mean cross entropy in nats per token over `batches`; `params` are on the device."""
    loss = compiled_loss(backend, config)
    total, count = 0.0, 0
    for tokens, targets in batches:
        value = loss(params, backend.put(tokens), backend.put(targets))
        total += float(backend.to_numpy(value)) * targets.size
        count += targets.size
    return total / count
