"""A run reports to the screen, to `metrics.jsonl`, and to TensorBoard's files."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from gpt2spec.training.progress import Progress
from gpt2spec.training.run import Run
from gpt2spec.training.run_directory import MetricsLog, add_record
from gpt2spec.training.tensorboard import TensorBoardLog


class Reports:
    """Shows and writes what a run reports; of several processes, only the first one does."""

    def __init__(self, run: Path, progress: Progress, log: MetricsLog | None, board: TensorBoardLog | None) -> None:
        """Report of the run in the folder `run`; `log` is None in a process that writes nothing."""
        self._run, self._progress, self._log, self._board = run, progress, log, board

    def message(self, text: str) -> None:
        """Print a line."""
        self._progress.message(text)

    def note(self, text: str) -> None:
        """Show a passing message."""
        self._progress.note(text)

    def step(self, line: dict[str, Any]) -> None:
        """Add the figures of a step to the metrics, and show them."""
        if self._log is not None:
            self._log.write(line)
        self.board(line)
        self._progress.step(line)

    def board(self, figures: dict[str, Any]) -> None:
        """Add figures of a step to TensorBoard's files, if the run has them."""
        if self._board is not None:
            self._board.write(figures)

    def record(self, file: str, record: dict[str, Any]) -> None:
        """Add a sample, or a task's scores, to the `file` of them."""
        if self._log is not None:
            add_record(self._run / file, record)

    def sync(self) -> None:
        """Sync the metrics to the disk, before a checkpoint that relies on them."""
        if self._log is not None:
            self._log.sync()


@contextmanager
def reporting(run: Run, lines: Sequence[dict[str, Any]], quiet: bool) -> Iterator[Reports]:
    """Open what `run` reports to; its metrics so far are `lines`."""
    settings, first = run.settings, run.backend.processes.first
    with ExitStack() as stack:
        log, board = None, None
        if first and settings.tensorboard:
            board = stack.enter_context(closing(TensorBoardLog(run.out, run.step)))
        if first:
            log = stack.enter_context(closing(MetricsLog(run.out, lines)))
        progress = stack.enter_context(closing(Progress(run.step, settings.steps, quiet or not first)))
        yield Reports(run.out, progress, log, board)
