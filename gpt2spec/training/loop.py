"""The training loop: batches into steps, steps into metrics, and a checkpoint now and then.

Nothing waits for the device but the moments when figures are shown: losses stay on the device until then.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpt2spec.api import compiled_loss
from gpt2spec.backend import Backend
from gpt2spec.checkpoints.native import (
    TrainingState,
    checkpoint_folder,
    checkpoint_steps,
    remove_checkpoint,
    save_checkpoint,
)
from gpt2spec.config import GPT2Config
from gpt2spec.data.batches import Batches, validation_batches
from gpt2spec.data.dataset import Dataset, open_dataset
from gpt2spec.decoding.loop import extend
from gpt2spec.decoding.options import GenerateOptions
from gpt2spec.decoding.sequence import GrowingText
from gpt2spec.errors import BackendError, ConfigError, GPT2SpecError, StorageError
from gpt2spec.plugins import load_backend
from gpt2spec.tokenizer import tokenizer_named
from gpt2spec.training.interruptions import interruptions
from gpt2spec.training.progress import Progress
from gpt2spec.training.resume import check_same_data, discard_after, fresh_state, how_to_resume, restored_state
from gpt2spec.training.run_directory import CONFIG, MetricsLog, create_run, locked_run, open_run
from gpt2spec.training.settings import RunSettings, write_toml
from gpt2spec.training.updates import Updates

FIGURES = ("loss", "grad_norm", "val_loss")
VERIFIED_TOKENS = 500_000_000
"""Data of up to so many tokens, a gigabyte, is hashed before it is used; for more, there is `data info`."""
SHOW_EVERY = 0.5
"""Seconds between moments at which the device is waited for and figures are shown."""


class DivergedError(GPT2SpecError):
    """The loss is no longer a number."""


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    Attributes:
        step: updates done, over all calls.
        finished: whether that is all of them; otherwise the run was interrupted and saved.
        val_loss: the last validation loss in nats, if there was one.
        dataset: what it was trained on.
        sample: prompt and continuation as token ids, if one was asked for.
    """

    step: int
    finished: bool
    val_loss: float | None
    dataset: Dataset
    sample: tuple[list[int], list[int]] | None


@dataclass
class Trainer:
    """A run in memory."""

    settings: RunSettings
    out: Path
    backend: Backend
    config: GPT2Config
    dataset: Dataset
    state: Any
    step: int
    progress: Progress
    log: MetricsLog
    saved: int
    val_loss: float | None = None
    pending: list[dict[str, Any]] = field(default_factory=list)
    shown: float = 0.0

    def run(self) -> bool:
        """Go on until the last step or an interruption; True for the last step."""
        steps = self.settings.steps
        updates = Updates(self.settings, self.backend, self.config, self.dataset.train)
        with interruptions(self.progress.message) as interrupted:
            self.shown = time.perf_counter()
            while self.step < steps and not interrupted:
                self.step += 1
                self.state, record = updates.run(self.state, self.step)
                self.pending.append(record)
                self.between_steps()
            if self.step > self.saved:  # interrupted
                self.show(validate=False)
                self.save()
        return self.step == steps

    def between_steps(self) -> None:
        """Show, validate and save where it is time to."""
        last = self.step == self.settings.steps
        validate = last or self.step % self.settings.eval_every == 0
        save = last or self.step % self.settings.checkpoint_every == 0
        if validate or save or time.perf_counter() - self.shown >= SHOW_EVERY:
            self.show(validate)
        if save:
            self.save()
        if validate or save:
            self.shown = time.perf_counter()  # neither counts as training time

    def show(self, validate: bool) -> None:
        """Fetch the figures of the pending steps, validate if asked to, and write them down."""
        losses = [{name: self._number(record.pop(name)) for name in ("loss", "grad_norm")} for record in self.pending]
        tokens = len(self.pending) * self.settings.windows_per_step() * self.settings.window()
        speed = tokens / max(1e-9, time.perf_counter() - self.shown)
        if validate:
            self.val_loss = validation_loss(
                self.backend, self.config, self.state["params"], self.dataset, self.settings
            )
        for i, (record, figures) in enumerate(zip(self.pending, losses, strict=True)):
            line = {"step": record["step"], "loss": figures["loss"], "lr": record["lr"]}
            line |= {"grad_norm": figures["grad_norm"], "tokens_per_second": round(speed, 1)}
            if validate and i == len(losses) - 1:
                line["val_loss"] = self.val_loss
            self._check_finite({name: np.float64(line.get(name) or 0.0) for name in FIGURES}, line["step"])
            with self._telling_what_is_saved():
                self.log.write(line)
            self.progress.step(line)
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
        """Write a checkpoint, then remove those beyond the number to keep."""
        host = {name: self.backend.dump_params(self.state[name]) for name in ("params", "m", "v")}
        self._check_finite(host["params"], self.step)
        progress = {
            "step": self.step,
            "data_position": self.step * self.settings.windows_per_step(),
            "data_fingerprint": self.dataset.fingerprint,
            "tokenizer": self.dataset.tokenizer_id,
        }
        with self._telling_what_is_saved():
            self.log.sync()
            save_checkpoint(self.out, self.config, host["params"], TrainingState(host["m"], host["v"], progress))
        self.saved = self.step
        for step in checkpoint_steps(self.out)[: -self.settings.keep]:
            remove_checkpoint(checkpoint_folder(self.out, step))

    def sample(self) -> tuple[list[int], list[int]]:
        """A continuation of the validation text's beginning: prompt and new tokens."""
        prompt = self.dataset.val.shards[0][: min(32, self.config.n_ctx // 2)].tolist()
        room = min(self.settings.sample_tokens, self.config.n_ctx - len(prompt))
        options = GenerateOptions(max_new_tokens=room, temperature=0.8, top_k=40, seed=self.settings.seed)
        text = GrowingText(0, 0, prompt, 0, options, None)
        params = self.backend.decoding_params(self.state["params"])
        pieces = extend(self.backend, self.config, params, [text], options, streaming=False)
        return prompt, [piece.choice.token for piece in pieces if piece.choice is not None]

    def _check_finite(self, values: Mapping[str, Any], step: int) -> None:
        """Raise `DivergedError` unless all is finite: losses before they are logged, weights before they are saved."""
        for name, value in values.items():
            if not np.isfinite(value).all():
                raise DivergedError(
                    f"training has diverged: {name} is no longer finite at step {step} ({self._what_is_saved()}). "
                    "Start a new run with a smaller --lr, or with gradient clipping (--set optimizer.clip=1.0)"
                )

    @contextmanager
    def _telling_what_is_saved(self) -> Iterator[None]:
        try:
            yield
        except StorageError as error:
            advice = f"Make room, then continue with: {how_to_resume(self.out)}"
            raise StorageError(f"{error}; {self._what_is_saved()}. {advice}") from error

    def _what_is_saved(self) -> str:
        steps = checkpoint_steps(self.out)
        return f"step {steps[-1]} is saved" if steps else "nothing was saved before"

    def _number(self, x: Any) -> float:
        return float(self.backend.to_numpy(x))


def train(
    settings: RunSettings, out: Path, *, resume: bool = False, at: int | None = None, quiet: bool = False
) -> Outcome:
    """Train a model in the run directory `out`.

    Args:
        settings: of a new run; with `resume`, those of the run as it was, apart from what may change.
        out: the run directory; new, or with `resume` an existing one.
        resume: continue from the checkpoint of step `at`, or from the last one.
        at: see `resume`; later checkpoints are removed.
        quiet: show no progress.

    Raises:
        GPT2SpecError: for whatever a user can correct; all that was reported as saved stays.
    """
    tokenizer = tokenizer_named(settings.tokenizer_name())
    backend = load_backend(settings.backend, device=settings.device, dtype=settings.dtype, **settings.backend_options)
    dataset = open_dataset(
        None if settings.data is None else Path(settings.data), tokenizer=tokenizer, progress=not quiet
    )
    if len(dataset.train) + len(dataset.val) <= VERIFIED_TOKENS:
        dataset.verify()
    settings = settings.with_vocabulary(dataset.vocab_size).resolved()
    config = settings.model_config()
    check(settings, config, dataset, backend)
    if not resume:
        state, step = fresh_state(backend, config, settings.seed), 0  # first: there may be no memory for it
        create_run(out, settings, describe(dataset))
    before, data = open_run(out)
    check_same_data(out, data, dataset)
    with locked_run(out):
        if resume:
            state, step = restored_state(backend, config, out, settings.seed, at)
        if step > settings.steps:
            raise ConfigError(f"{out} is at step {step} already, beyond the {settings.steps} that were asked for")
        log = MetricsLog(out, step)
        discard_after(out, step)
        if settings != before:
            write_toml(out / CONFIG, settings)
        progress = Progress(step, settings.steps, quiet)
        if resume and step == 0:
            progress.message(f"{out} has no checkpoint yet: beginning again from step 0")
        trainer = Trainer(settings, out, backend, config, dataset, state, step, progress, log, saved=step)
        try:
            finished = trainer.run()
        finally:
            progress.close()
            log.close()
    sample = trainer.sample() if finished and settings.sample_tokens and config.n_ctx > 1 else None
    return Outcome(trainer.step, finished, trainer.val_loss, dataset, sample)


def validation_loss(
    backend: Backend, config: GPT2Config, params: Any, dataset: Dataset, settings: RunSettings
) -> float:
    """Mean cross entropy in nats per token over the first windows of the validation split."""
    loss = compiled_loss(backend, config)
    total, count = 0.0, 0
    for tokens, targets in validation_batches(
        dataset.val, settings.batch_size, settings.window(), settings.eval_windows
    ):
        value = loss(params, backend.put(tokens), backend.put(targets))
        total += float(backend.to_numpy(value)) * targets.size
        count += targets.size
    return total / count


def check(settings: RunSettings, config: GPT2Config, dataset: Dataset, backend: Backend) -> None:
    """Raise before anything is written for what would go wrong later: what does not fit."""
    settings.schedule()
    if not backend.capabilities.gradients:
        raise BackendError(f"backend {backend.name!r} has no gradients: it cannot train")
    if not backend.capabilities.dropout and max(config.dropout, config.attn_dropout) > 0.0:
        raise BackendError(f"backend {backend.name!r} has no dropout; train with --dropout 0")
    if dataset.vocab_size > config.vocab_size:
        raise ConfigError(
            f"{dataset.name} has ids up to {dataset.vocab_size - 1}; this model's vocab_size is {config.vocab_size}"
        )
    if settings.tokenizer is not None and tokenizer_named(settings.tokenizer).id != dataset.tokenizer_id:
        raise ConfigError(f"{dataset.name} was prepared with {dataset.tokenizer_id}, not with {settings.tokenizer!r}")
    Batches(dataset.train, settings.windows_per_step(), settings.window(), settings.seed)
    validation_batches(dataset.val, settings.batch_size, settings.window(), settings.eval_windows)


def describe(dataset: Dataset) -> dict[str, Any]:
    """What `data.json` says of the data."""
    return {
        "name": dataset.name,
        "source": dataset.source,
        "fingerprint": dataset.fingerprint,
        "tokenizer": dataset.tokenizer_id,
        "train_tokens": len(dataset.train),
        "val_tokens": len(dataset.val),
        "unigram_entropy": dataset.unigram_entropy,
    }
