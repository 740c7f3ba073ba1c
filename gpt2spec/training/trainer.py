"""A run in memory: steps, and between them figures, validations, samples and checkpoints.

Nothing waits for the device but the moments when figures are shown: losses stay on the device until then.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpt2spec.backend import Backend
from gpt2spec.checkpoints.native import TrainingState, checkpoint_steps, save_checkpoint
from gpt2spec.checkpoints.sharded import save_sharded
from gpt2spec.config import GPT2Config
from gpt2spec.data.dataset import Dataset
from gpt2spec.device_weights import OnDevice
from gpt2spec.errors import GPT2SpecError, StorageError
from gpt2spec.tasks.evaluate import Model, Questions, Result
from gpt2spec.tasks.report import figure, finite, result_json
from gpt2spec.tokenizer import Tokenizer, text_of
from gpt2spec.training.background import Background
from gpt2spec.training.evaluation import sample, validation_loss
from gpt2spec.training.history import MOST_SKIPS, History
from gpt2spec.training.interruptions import interruptions
from gpt2spec.training.profiling import ProfiledUpdates
from gpt2spec.training.progress import Progress
from gpt2spec.training.resume import how_to_resume
from gpt2spec.training.retention import make_room
from gpt2spec.training.run_directory import SAMPLES, TASKS, MetricsLog, NoLog, add_record
from gpt2spec.training.settings import RunSettings
from gpt2spec.training.tasks import Interrupted, RunTasks
from gpt2spec.training.tensorboard import TensorBoardLog
from gpt2spec.training.updates import Updates
from gpt2spec.training.usage import model_flops_utilization, peak_memory
from gpt2spec.tree import tree_leaves

SHOW_EVERY = 0.5
"""Seconds between moments at which the device is waited for and figures are shown."""


class DivergedError(GPT2SpecError):
    """The loss is no longer a number, or far above what it was."""


@dataclass
class Trainer:
    """A run, and the steps of it that are not on disk yet."""

    settings: RunSettings
    out: Path
    backend: Backend
    config: GPT2Config
    dataset: Dataset
    state: Any
    step: int
    progress: Progress
    log: MetricsLog | NoLog
    history: History
    tasks: RunTasks
    board: TensorBoardLog | None
    profiled: ProfiledUpdates
    saved: int
    tokenizer: Tokenizer | None
    in_parts: bool
    val_loss: float | None = None
    stopped_early: bool = False
    pending: list[dict[str, Any]] = field(default_factory=list)
    shown: float = 0.0
    interrupted: list[int] = field(default_factory=list)
    background: Background = field(default_factory=Background)

    def run(self) -> bool:
        """Go on until the last step, patience's end or an interruption; False for an interruption."""
        settings = self.settings
        accept = self.accepted if settings.on_spike == "skip" else None
        updates = Updates(settings, self.backend, self.config, self.dataset.train, accept)
        self.stopped_early = self.history.exhausted()
        with interruptions(self.progress.message) as self.interrupted, self._finishing():
            self.score()  # of a step at which that was interrupted, or asked for only now
            self.shown = time.perf_counter()
            while self.step < settings.steps and not self.stopped_early:
                if self.stopping():
                    break
                self.step += 1
                with self._telling_what_is_saved():
                    self.profiled.before(self.step)
                self.state, record = updates.run(self.state, self.step)
                self.pending.append(record)
                with self._telling_what_is_saved():
                    folder = self.profiled.after(self.step)
                if folder is not None:
                    self.progress.message(f"the trace is in {folder}")
                self.between_steps()
            if self.step > self.saved:  # interrupted, or early
                self.show(validate=False)
                self.save()
        return self.last and not self.due()

    @property
    def last(self) -> bool:
        """Whether no more steps are wanted."""
        return self.step == self.settings.steps or self.stopped_early

    def stopping(self) -> bool:
        """Whether any process was interrupted; all of them ask."""
        return self.backend.processes.any(bool(self.interrupted))

    def accepted(self, loss: float, grad_norm: float) -> bool:
        """Whether to make an update: not at a spike."""
        name = self.history.spike(loss, grad_norm)
        self.history.skips = self.history.skips + 1 if name else 0
        if name:
            value = {"loss": loss, "grad_norm": grad_norm}[name]
            self.progress.message(f"step {self.step:>6}  skipped: {name} is {value:.4g}")
        if self.history.skips > MOST_SKIPS:
            raise DivergedError(
                f"training has diverged: {self.history.skips} updates in a row were skipped ({self._what_is_saved()}). "
                "Start a new run with a smaller --lr, or with gradient clipping (--set optimizer.clip=1.0)"
            )
        return name is None

    def between_steps(self) -> None:
        """Show, validate, save, sample and ask tasks where it is time to."""
        settings = self.settings
        last = self.step == settings.steps
        validate = last or self.step % settings.eval_every == 0
        save = last or self.step % settings.checkpoint_every == 0
        sampled = settings.sample_every > 0 and self.step % settings.sample_every == 0
        scored = bool(self.due())
        if validate or save or sampled or scored or time.perf_counter() - self.shown >= SHOW_EVERY:
            self.show(validate)
        if sampled:  # before the save: a run that goes on from this step takes it for done
            self.write_sample()
        if save or (validate and settings.keep_best and self.history.best() == self.step):
            self.save()
        self.score()  # after the save: it may take long, and what is missing is known
        if validate or save or sampled or scored:
            self.shown = time.perf_counter()  # none of them counts as training time

    def show(self, validate: bool) -> None:
        """Fetch the figures of the pending steps, validate if asked to, and write them down."""
        losses = [{name: self._number(record.pop(name)) for name in ("loss", "grad_norm")} for record in self.pending]
        tokens = len(self.pending) * self.settings.windows_per_step() * self.settings.window()
        speed = tokens / max(1e-9, time.perf_counter() - self.shown)
        for i, (record, figures) in enumerate(zip(self.pending, losses, strict=True)):
            line = {"step": record["step"], "loss": figures["loss"], "lr": record["lr"]}
            line |= {"grad_norm": figures["grad_norm"], "tokens_per_second": round(speed, 1)}
            if record.get("skipped"):
                line |= {name: None for name, value in figures.items() if not math.isfinite(value)} | {"skipped": True}
            else:
                self._check_ordinary(line)
            if i == len(losses) - 1:
                line |= self._at_rest(speed, validate)
            self._write(line)
        if validate and self.val_loss is not None:
            self.progress.message(self.validation_message(self.val_loss))
        self.pending.clear()
        self.shown = time.perf_counter()

    def validation_message(self, val_loss: float) -> str:
        """The line a person reads after a validation."""
        return (
            f"step {self.step:>6}  validation loss {val_loss:.4f}  perplexity {math.exp(min(val_loss, 700.0)):,.1f}"
            f"  (unigram entropy {self.dataset.unigram_entropy:.4f})"
        )

    def save(self) -> None:
        """Write a checkpoint, from a copy and beside the next steps: whole, or in parts, by all processes."""
        with self._telling_what_is_saved():
            self.background.wait()
            self.log.sync()
        self.saved = self.step
        progress = {
            "step": self.step,
            "data_position": self.step * self.settings.windows_per_step(),
            "data_fingerprint": self.dataset.fingerprint,
            "tokenizer": self.dataset.tokenizer_id,
        }
        if self.in_parts:
            self._save_in_parts(progress)
        elif self.backend.processes.first or self._across_processes():
            self._save_whole(progress)

    def _save_whole(self, progress: dict[str, Any]) -> None:
        """Processes that have parts only give them to the first one."""
        host = {name: self.backend.dump_params(self.state[name]) for name in ("params", "m", "v")}
        if not self.backend.processes.first:
            return
        self._check_finite(host["params"], self.step)
        training, best = TrainingState(host["m"], host["v"], progress), self.history.best()

        def write() -> None:
            save_checkpoint(self.out, self.config, host["params"], training, self.tokenizer)
            self._make_room(best)

        self.background.start(write)

    def _save_in_parts(self, progress: dict[str, Any]) -> None:
        norm = self.backend.jit(self.backend.ops.global_norm)(tree_leaves(self.state["params"]))
        self._check_finite({"a weight": self._number(norm)}, self.step)
        assert self.backend.sharding is not None  # `in_parts` asked for it
        best, snapshot = self.history.best(), self.backend.sharding.snapshot(self.state)
        sharding, state = snapshot or (self.backend.sharding, self.state)

        def write() -> None:
            save_sharded(self.out, self.config, self.backend, sharding, state, progress, self.tokenizer)
            if sharding.processes.first:
                self._make_room(best)

        if snapshot is not None:
            self.background.start(write)
            return
        with self._telling_what_is_saved():
            write()

    def _across_processes(self) -> bool:
        return self.backend.sharding is not None and self.backend.sharding.across_processes

    def _make_room(self, best: int | None) -> None:
        settings = self.settings
        make_room(self.out, settings.keep, settings.keep_every, best if settings.keep_best else None)

    def sample(self) -> tuple[list[int], list[int]]:
        """A continuation of the validation text's beginning: prompt and new tokens."""
        return sample(self.backend, self.config, self.state["params"], self.dataset, self.settings)

    def write_sample(self) -> None:
        """Show a sample, and add it to the run's."""
        assert self.tokenizer is not None  # checked before the run began
        prompt, text = (text_of(self.tokenizer, tokens) for tokens in self.sample())
        if not self.backend.processes.first:
            return
        self.progress.message(f"step {self.step:>6}  sample: {text!r}")
        with self._telling_what_is_saved():
            add_record(self.out / SAMPLES, {"step": self.step, "prompt": prompt, "text": text})

    def due(self) -> list[Questions]:
        """The tasks that are to be asked at this step."""
        return self.tasks.due(self.step, self.last)

    def score(self) -> None:
        """Ask the tasks that are due, and add the model's scores to the run's; an interruption ends it soon."""
        due = self.due()
        if not due:
            return
        params, sharding = self.state["params"], self.backend.sharding
        params = OnDevice(params if sharding is None else sharding.gather(params))
        model = Model(self.backend, self.config, params, due[0].reader.tokenizer, self.settings.batch_size)
        try:
            for result in self.tasks.results(model, self.step, due, self.progress, self.stopping):
                self._write_scores(result)
        except Interrupted:
            self.progress.message(f"step {self.step:>6}  tasks: interrupted; a resumed run asks again")

    def _write_scores(self, result: Result) -> None:
        if not self.backend.processes.first:
            return
        for score in result.scores:
            self.progress.message(
                f"step {self.step:>6}  {result.task}: {score.name} {figure(score)}  [{score.protocol}]"
            )
        with self._telling_what_is_saved():
            add_record(self.out / TASKS, {"step": self.step, "limit": self.settings.task_limit, **result_json(result)})
            if self.board is not None:
                values = finite({f"{result.task}/{score.name}": score.value for score in result.scores})
                self.board.write({"step": self.step, **values})

    def _at_rest(self, speed: float, validate: bool) -> dict[str, Any]:
        """What is measured only when the device has been waited for."""
        found: dict[str, Any] = {"peak_memory": peak_memory(self.backend)}
        if self.settings.device_flops:
            context, speed = self.settings.window(), speed / self.backend.processes.ranks
            mfu = model_flops_utilization(self.config, context, speed, self.settings.device_flops)
            found["mfu"] = round(mfu, 4)
        if validate:
            params = self.state["params"]
            self.val_loss = validation_loss(self.backend, self.config, params, self.dataset, self.settings)
            self._check_finite({"val_loss": self.val_loss}, self.step)
            self.history.val_losses[self.step] = found["val_loss"] = self.val_loss
            self.stopped_early = self.history.exhausted()
        return found

    def _write(self, line: dict[str, Any]) -> None:
        with self._telling_what_is_saved():
            self.log.write(line)
            if self.board is not None:
                self.board.write(line)
        self.progress.step(line)

    def _check_ordinary(self, line: dict[str, Any]) -> None:
        """Raise `DivergedError` for a step whose figures are no numbers, or a spike where that is to stop the run."""
        self._check_finite({name: line[name] for name in ("loss", "grad_norm")}, line["step"])
        if self.settings.on_spike == "stop" and (name := self.history.spike(line["loss"], line["grad_norm"])):
            raise DivergedError(
                f"{name} is {line[name]:.4g} at step {line['step']}, more than {self.settings.spike:g} standard "
                f"deviations above the steps before ({self._what_is_saved()}). Resume with --on-spike skip to leave "
                "out such updates, or with a larger --spike"
            )

    def _check_finite(self, values: Mapping[str, Any], step: int) -> None:
        """Raise `DivergedError` unless all is finite: losses before they are logged, weights before they are saved."""
        for name, value in values.items():
            if not np.isfinite(value).all():
                raise DivergedError(
                    f"training has diverged: {name} is no longer finite at step {step} ({self._what_is_saved()}). "
                    "Start a new run with a smaller --lr, or with gradient clipping (--set optimizer.clip=1.0)"
                )

    @contextmanager
    def _finishing(self) -> Iterator[None]:
        """What was begun is brought to an end: the checkpoint under way, the trace."""
        try:
            yield
        finally:
            with self._telling_what_is_saved():
                try:
                    self.background.wait()
                finally:
                    self.profiled.close()

    @contextmanager
    def _telling_what_is_saved(self) -> Iterator[None]:
        try:
            yield
        except StorageError as error:
            with suppress(StorageError):
                self.background.wait()  # that is saved then
            advice = f"Put that right, then continue with: {how_to_resume(self.out)}"
            raise StorageError(f"{error}; {self._what_is_saved()}. {advice}") from error

    def _what_is_saved(self) -> str:
        steps = checkpoint_steps(self.out)
        return f"step {steps[-1]} is saved" if steps else "nothing was saved before"

    def _number(self, x: Any) -> float:
        return float(self.backend.to_numpy(x))
