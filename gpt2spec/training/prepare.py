"""This module prepares a run: all that it needs is opened and checked before anything is written."""

from pathlib import Path

from gpt2spec.backend import Backend
from gpt2spec.checkpoints.opening import open_checkpoint
from gpt2spec.checkpoints.reader import CheckpointReader
from gpt2spec.checkpoints.sharded import writes_sharded
from gpt2spec.checkpoints.tokenizers import tokenizer_of
from gpt2spec.config import GPT2Config
from gpt2spec.data.batches import Batches, validation_batches
from gpt2spec.data.dataset import Dataset
from gpt2spec.errors import BackendError, ConfigError
from gpt2spec.plugins import load_backend
from gpt2spec.tokenizer import UNKNOWN, Tokenizer, find_tokenizer
from gpt2spec.training.data import check_data_is_there, has_text, open_data, verify_data, vocabulary_of_token_files
from gpt2spec.training.resume import fresh_state
from gpt2spec.training.run import Run
from gpt2spec.training.settings import RunSettings
from gpt2spec.training.tasks import read_tasks
from gpt2spec.training.tokenizers import check_same_tokenizer, decoding_tokenizer, own_tokenizer


def prepare(settings: RunSettings, out: Path, resume: bool, quiet: bool) -> Run:
    """Make the run that `settings` describe, without a word in its directory `out` yet.

    A new run has its state already. One that is resumed gets it from `opened`.
    """
    initial = None if resume or settings.init_from is None else open_checkpoint(settings.init_from)
    if initial is not None:
        settings = settings.with_model_of(initial.config)
    encoding = (own_tokenizer(out) if resume else None) or encoding_tokenizer(settings, initial)
    backend = backend_of(settings)
    quiet = quiet or not backend.processes.first
    with backend.processes.in_turn():  # the first process encodes a raw text, the others find it encoded
        if resume:
            check_data_is_there(out, settings.data)
        named, vocab_size = settings.tokenizer is not None, settings.model.get("vocab_size")
        vocabulary = vocabulary_of_token_files(encoding, named, vocab_size)
        dataset = open_data(settings.data, encoding, vocabulary, progress=not quiet)
    settings = settings.with_vocabulary(dataset.vocab_size).resolved()
    config = settings.model_config()
    check(settings, config, dataset, backend)
    check_same_tokenizer(settings.tokenizer, encoding, dataset)
    tokenizer = decoding_tokenizer(dataset, encoding)
    if initial is not None and initial.tokenizer not in (None, UNKNOWN, dataset.tokenizer_id):
        raise ConfigError(f"{dataset.name} is in {dataset.tokenizer_id}, {initial.path} in {initial.tokenizer}")
    questions = read_tasks(settings.tasks, settings.task_limit, config, dataset, tokenizer)
    if settings.verify_data:
        verify_data(dataset, backend, quiet)
    run = Run(settings, out, backend, config, dataset, tokenizer, questions)
    if not resume:  # before there is a directory: there may be no memory for it
        run.state = fresh_state(backend, config, settings.seed, initial)
    return run


def encoding_tokenizer(settings: RunSettings, initial: CheckpointReader | None) -> Tokenizer:
    """The tokenizer that encodes a new run's raw text: that in the settings, or that of the first weights."""
    if settings.tokenizer is None and initial is not None and has_text(settings.data):
        return tokenizer_of(initial)
    return find_tokenizer(settings.tokenizer_name())


def backend_of(settings: RunSettings) -> Backend:
    """The backend that the settings ask for."""
    parallel = {} if settings.parallel in (None, "none") else {"parallel": settings.parallel}
    options = settings.backend_options | parallel
    return load_backend(settings.backend, device=settings.device, dtype=settings.dtype, **options)


def check(settings: RunSettings, config: GPT2Config, dataset: Dataset, backend: Backend) -> None:
    """Raise where settings, model and data do not fit each other."""
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
    writes_sharded(backend, settings.checkpoint_format)
