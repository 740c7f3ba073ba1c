"""Training: a run is prepared, opened, taken from step to step, and finished."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from gpt2spec.checkpoints.sharded import writes_sharded
from gpt2spec.data.batches import validation_batches
from gpt2spec.data.dataset import Dataset
from gpt2spec.tokenizer import Tokenizer
from gpt2spec.training.callback import Callback
from gpt2spec.training.checkpoints import Checkpoints
from gpt2spec.training.divergence import SpikeGuard
from gpt2spec.training.figures import Figures
from gpt2spec.training.interruptions import interruptions
from gpt2spec.training.opened import Past, opened
from gpt2spec.training.prepare import prepare
from gpt2spec.training.profiling import ProfiledUpdates, check_count
from gpt2spec.training.reports import Reports, reporting
from gpt2spec.training.retention import Retention
from gpt2spec.training.run import Run
from gpt2spec.training.samples import Samples, sample
from gpt2spec.training.saved import brought_to_an_end
from gpt2spec.training.settings import RunSettings
from gpt2spec.training.tasks import Scores
from gpt2spec.training.updates import Updates
from gpt2spec.training.validation import Validation


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    Attributes:
        first: whether this is the first process, which writes messages for all.
        step: updates done, over all calls.
        finished: whether that is all of them, or patience was at its end; otherwise the run was interrupted and saved.
        signal: the signal that interrupted this process, if one did; all processes of a run stop at the same step.
        stopped_early: whether patience was at its end.
        best: the step of the lowest validation loss, if there was one.
        val_loss: the last validation loss in nats, if there was one.
        dataset: what it was trained on.
        sample: prompt and continuation as token ids, if one was asked for.
        tokenizer: decodes the ids; None for token files that do not say whose they are.
    """

    first: bool
    step: int
    finished: bool
    signal: int | None
    stopped_early: bool
    best: int | None
    val_loss: float | None
    dataset: Dataset
    sample: tuple[list[int], list[int]] | None
    tokenizer: Tokenizer | None


class Callbacks(NamedTuple):
    """The callbacks of a run; `between_steps` has their order."""

    figures: Figures
    validation: Validation
    samples: Samples
    checkpoints: Checkpoints
    scores: Scores


def train(
    settings: RunSettings,
    out: Path,
    *,
    resume: bool = False,
    at: int | None = None,
    quiet: bool = False,
    profile: int | None = None,
) -> Outcome:
    """Train a model in the run directory `out`.

    Args:
        settings: of a new run; with `resume`, those of the run as it was, apart from what may change.
        out: the run directory; new, or with `resume` an existing one.
        resume: continue from the checkpoint of step `at`, or from the last one.
        at: see `resume`; later checkpoints are removed.
        quiet: show no progress.
        profile: trace so many updates, into the run's folder `profile`.

    Raises:
        GPT2SpecError: for whatever a user can correct; all that was reported as saved stays.
    """
    check_count(profile)
    run = prepare(settings, out, resume, quiet)
    with opened(run, resume, at) as past, reporting(run, past.metrics, quiet) as reports:
        if resume and run.step == 0:
            reports.message(f"{out} has no checkpoint yet: beginning again from step 0")
        guard = SpikeGuard(run, settings.spike, settings.on_spike == "skip", reports.message)
        callbacks = callbacks_of(run, past, guard, reports)
        profiled = ProfiledUpdates(run.backend, out, profile if run.backend.processes.first else None, reports.message)
        go_on(run, updates_of(run, guard), callbacks, profiled, reports)
    return finish(run, callbacks)


def go_on(run: Run, updates: Updates, callbacks: Callbacks, profiled: ProfiledUpdates, reports: Reports) -> None:
    """Take steps until the last one, patience's end or an interruption, after which the last step is saved."""
    figures, checkpoints, scores = callbacks.figures, callbacks.checkpoints, callbacks.scores
    with (
        interruptions(run.signals, reports.message),
        brought_to_an_end(run.out, checkpoints.background, profiled),
    ):
        if scores.due(run.step):  # of a step at which that was interrupted, or asked for only now
            scores.run()
        figures.restart_clock()
        while not run.at_end and not run.interrupted():
            run.step += 1
            with profiled.update():
                run.state, record = updates.run(run.state, run.step)
                figures.add(record)
            between_steps(run.step, figures, [callbacks.samples, checkpoints, scores])
        if run.step > checkpoints.saved:  # interrupted, or early
            figures.run()
            checkpoints.run()


def between_steps(step: int, figures: Figures, others: Sequence[Callback]) -> None:
    """Report figures, and do what else is due after `step`, in this order:

    1. Figures, with which the step is validated, since they may end the run.
    2. A sample, before the checkpoint: a run that goes on from this step takes it for done.
    3. The checkpoint.
    4. Scores in tasks, after the checkpoint: they may take long, and a resumed run knows which are missing.

    None of it counts as training time.
    """
    if not figures.due(step) and not any(each.due(step) for each in others):
        return
    figures.run()
    for each in others:
        if each.due(step):
            each.run()
    figures.restart_clock()


def updates_of(run: Run, guard: SpikeGuard) -> Updates:
    """Make the updates of a run; those that `guard` refuses are left out where the settings say so."""
    accept = guard.accept if guard.skips else None
    return Updates(run.settings.update_plan(), run.backend, run.config, run.dataset.train, accept)


def callbacks_of(run: Run, past: Past, guard: SpikeGuard, reports: Reports) -> Callbacks:
    """Make the callbacks that the settings of `run` ask for."""
    settings = run.settings
    batches = partial(
        validation_batches, run.dataset.val, settings.batch_size, settings.window(), settings.eval_windows
    )
    retention = Retention(settings.keep, settings.keep_every, settings.keep_best)
    sharded = writes_sharded(run.backend, settings.checkpoint_format)
    validation = Validation(run, settings.eval_every, batches)
    return Callbacks(
        figures=Figures(run, validation, guard, reports, settings.device_flops),
        validation=validation,
        samples=Samples(run, settings.sample_every, settings.sample_tokens, reports),
        checkpoints=Checkpoints(run, settings.checkpoint_every, retention, sharded, reports.sync),
        scores=Scores(run, settings.task_every, past.scores, reports),
    )


def finish(run: Run, callbacks: Callbacks) -> Outcome:
    """Sample from what was trained, leave the other processes, and say how the run ended."""
    settings, processes = run.settings, run.backend.processes
    finished = run.at_end and not callbacks.scores.due(run.step)
    sampled = finished and settings.sample_tokens and run.config.n_ctx > 1
    text = sample(run, settings.sample_tokens) if sampled else None
    processes.barrier()  # the first has written all it had to
    processes.leave()
    return Outcome(
        first=processes.first,
        step=run.step,
        finished=finished,
        signal=next(iter(run.signals), None),
        stopped_early=run.history.exhausted,
        best=run.history.best(),
        val_loss=callbacks.validation.loss,
        dataset=run.dataset,
        sample=text,
        tokenizer=run.tokenizer,
    )
