"""A call of `gpt2spec train`: what it needs is opened and checked, then the `Trainer` runs."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2spec.backend import Backend
from gpt2spec.checkpoints.opening import open_checkpoint
from gpt2spec.checkpoints.sharded import writes_sharded
from gpt2spec.config import GPT2Config
from gpt2spec.data.batches import Batches, validation_batches
from gpt2spec.data.dataset import Dataset
from gpt2spec.errors import BackendError, CheckpointError, ConfigError
from gpt2spec.plugins import load_backend
from gpt2spec.tokenizer import UNKNOWN, Tokenizer
from gpt2spec.training.data import open_data, verify_data
from gpt2spec.training.history import History
from gpt2spec.training.profiling import ProfiledUpdates
from gpt2spec.training.progress import Progress
from gpt2spec.training.resume import (
    check_data_is_there,
    check_same_data,
    discard_after,
    fresh_state,
    restored_state,
)
from gpt2spec.training.run_directory import (
    CONFIG,
    MetricsLog,
    NoLog,
    create_run,
    forget_after,
    locked_run,
    metrics_until,
    open_run,
    read_scores,
)
from gpt2spec.training.settings import RunSettings, write_toml
from gpt2spec.training.tasks import RunTasks, read_tasks
from gpt2spec.training.tensorboard import TensorBoardLog
from gpt2spec.training.tokenizers import check_same_tokenizer, decoding_tokenizer, encoding_tokenizer, keep_tokenizer
from gpt2spec.training.trainer import Trainer


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    Attributes:
        first: whether this is the only process, or the one of several that speaks for all.
        step: updates done, over all calls.
        finished: whether that is all of them, or patience was at its end; otherwise the run was interrupted and saved.
        signal: the one that interrupted this process, if one did; several processes stop together.
        stopped_early: whether patience was at its end.
        best: the step of the lowest validation loss, if there was one.
        val_loss: the last validation loss in nats, if there was one.
        dataset: what it was trained on.
        sample: prompt and continuation as token ids, if one was asked for.
        tokenizer: of the ids; None for token files that do not say whose they are.
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
    initial = None if resume or settings.init_from is None else open_checkpoint(settings.init_from)
    if initial is not None:
        settings = settings.with_model_of(initial.config)
    encoding = encoding_tokenizer(settings, out if resume else None, initial)
    backend = backend_of(settings)
    first = backend.processes.first
    quiet = quiet or not first
    with backend.processes.in_turn():  # the first process encodes a raw text, the others find it encoded
        if resume:
            check_data_is_there(out, settings.data)
        dataset = open_data(settings, encoding, progress=not quiet)
    settings = settings.with_vocabulary(dataset.vocab_size).resolved()
    config = settings.model_config()
    check(settings, config, dataset, backend)
    in_parts = writes_sharded(backend, settings.checkpoint_format)
    check_same_tokenizer(settings, encoding, dataset)
    tokenizer = decoding_tokenizer(dataset, encoding)
    if initial is not None and initial.tokenizer not in (None, UNKNOWN, dataset.tokenizer_id):
        raise ConfigError(f"{dataset.name} is in {dataset.tokenizer_id}, {initial.path} in {initial.tokenizer}")
    questions = read_tasks(settings, config, dataset, tokenizer)
    if settings.verify_data:
        verify_data(dataset, backend, quiet)
    if not resume:  # the state first: there may be no memory for it
        state, step = fresh_state(backend, config, settings.seed, settings.init_from), 0
    with locked_run(out, new=not resume) if first else nullcontext():
        before = opened(out, settings, dataset, backend, tokenizer, new=not resume)
        if resume:
            state, step = restored_state(backend, config, out, settings.seed, at, settings.init_from)
        if step > settings.steps:
            raise ConfigError(f"{out} is at step {step} already, beyond the {settings.steps} that were asked for")
        profiled = ProfiledUpdates(backend, out, step, profile if first else None)
        lines = metrics_until(out, step)
        tasks = RunTasks(questions, settings.task_every, (line for line in read_scores(out) if line["step"] <= step))
        backend.processes.barrier()  # all have read what is there
        if first:
            discard_after(out, step)  # before the lines that these checkpoints have seen
            forget_after(out, step)
            if settings != before:
                write_toml(out / CONFIG, settings)
        board = TensorBoardLog(out, step) if settings.tensorboard and first else None
        log = MetricsLog(out, lines) if first else NoLog()
        progress = Progress(step, settings.steps, quiet)
        if resume and step == 0:
            progress.message(f"{out} has no checkpoint yet: beginning again from step 0")
        run = (settings, out, backend, config, dataset, state, step, progress, log)
        history = History(settings, lines)
        known = (history, tasks, board, profiled)
        trainer = Trainer(*run, *known, saved=step, tokenizer=tokenizer, in_parts=in_parts)
        try:
            finished = trainer.run()
        finally:
            progress.close()
            log.close()
            if board is not None:
                board.close()
    sample = trainer.sample() if finished and settings.sample_tokens and config.n_ctx > 1 else None
    backend.processes.barrier()  # the first has written all it had to
    backend.processes.leave()
    ended = (trainer.step, finished, next(iter(trainer.interrupted), None), trainer.stopped_early)
    return Outcome(first, *ended, history.best(), trainer.val_loss, dataset, sample, tokenizer)


def backend_of(settings: RunSettings) -> Backend:
    """The backend that the settings ask for."""
    parallel = {} if settings.parallel in (None, "none") else {"parallel": settings.parallel}
    options = settings.backend_options | parallel
    return load_backend(settings.backend, device=settings.device, dtype=settings.dtype, **options)


def opened(
    out: Path, settings: RunSettings, dataset: Dataset, backend: Backend, tokenizer: Tokenizer | None, new: bool
) -> RunSettings:
    """The settings of the run in `out`, which the first process makes if it is `new`."""
    with backend.processes.in_turn():
        if new and backend.processes.first:
            keep_tokenizer(out, tokenizer)
            create_run(out, settings, describe(dataset))
        if not backend.processes.first and not (out / CONFIG).is_file():
            raise CheckpointError(
                f"process {backend.processes.rank} finds no run in {out} that the first one made: the processes of a "
                "job need one --out, in a folder that all of them share"
            )
        before, data = open_run(out)
        check_same_data(out, data, dataset)
    return before


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
    if settings.sample_every and dataset.tokenizer_id == UNKNOWN:
        raise ConfigError(
            f"the tokenizer of {dataset.name} is unknown, so samples cannot be read: leave out sample_every"
        )
    settings.check_shares(backend.row_shares)
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
