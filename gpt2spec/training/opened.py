"""Opening the directory of a run: a new one is made, one that is resumed goes back to a checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

from gpt2spec.data.dataset import Dataset
from gpt2spec.errors import CheckpointError, ConfigError
from gpt2spec.training.history import History
from gpt2spec.training.resume import check_same_data, discard_after, restored_state
from gpt2spec.training.run import Run
from gpt2spec.training.run_directory import (
    CONFIG,
    create_run,
    forget_after,
    locked_run,
    metrics_until,
    open_run,
    read_scores,
)
from gpt2spec.training.settings import RunSettings, write_toml
from gpt2spec.training.tokenizers import keep_tokenizer


class Past(NamedTuple):
    """The lines that a run's directory has of the steps done: of its metrics, and of its scores in tasks."""

    metrics: list[dict[str, Any]]
    scores: list[dict[str, Any]]


@contextmanager
def opened(run: Run, resume: bool, at: int | None) -> Iterator[Past]:
    """Keep the directory of `run` for this process alone, as it was after the step that the run goes on from.

    Args:
        run: from `prepare`; gets the state, step and history of what is resumed.
        resume: whether the run is there already.
        at: the step of the checkpoint to resume from; None is the last one.
    """
    out, settings, first = run.out, run.settings, run.backend.processes.first
    with locked_run(out, new=not resume) if first else nullcontext():
        before = settings_in(run, new=not resume)
        if resume:
            run.state, run.step = restored_state(run.backend, run.config, out, settings.seed, at, settings.init_from)
        if run.step > settings.steps:
            raise ConfigError(f"{out} is at step {run.step} already, beyond the {settings.steps} that were asked for")
        past = Past(metrics_until(out, run.step), [line for line in read_scores(out) if line["step"] <= run.step])
        run.history = History(past.metrics, settings.patience, settings.spike)
        run.backend.processes.barrier()  # all have read what is there
        if first:
            discard_after(out, run.step)  # before the lines that these checkpoints have seen
            forget_after(out, run.step)
            if settings != before:
                write_toml(out / CONFIG, settings)
        yield past


def settings_in(run: Run, new: bool) -> RunSettings:
    """The settings in the directory of `run`, which the first process makes if it is `new`."""
    out, processes = run.out, run.backend.processes
    with processes.in_turn():
        if new and processes.first:
            keep_tokenizer(out, run.tokenizer)
            create_run(out, run.settings, describe(run.dataset))
        if not processes.first and not (out / CONFIG).is_file():
            raise CheckpointError(
                f"process {processes.rank} finds no run in {out} that the first one made: the processes of a job need "
                "one --out, in a folder that all of them share"
            )
        settings, data = open_run(out)
        check_same_data(out, data, run.dataset)
    return settings


def describe(dataset: Dataset) -> dict[str, Any]:
    """Describe the data for `data.json`."""
    return {
        "name": dataset.name,
        "source": dataset.source,
        "fingerprint": dataset.fingerprint,
        "tokenizer": dataset.tokenizer_id,
        "train_tokens": len(dataset.train),
        "val_tokens": len(dataset.val),
        "unigram_entropy": dataset.unigram_entropy,
    }
