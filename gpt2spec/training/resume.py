"""This module resumes a run from one of its checkpoints."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpt2spec.backend import Backend
from gpt2spec.checkpoints.native import (
    checkpoint_folder,
    checkpoint_steps,
    chosen_step,
    open_native,
    remove_checkpoint,
)
from gpt2spec.checkpoints.opening import open_checkpoint
from gpt2spec.checkpoints.reader import CheckpointReader
from gpt2spec.checkpoints.sharded import load_sharded, loads_sharded
from gpt2spec.config import GPT2Config
from gpt2spec.data.dataset import Dataset
from gpt2spec.errors import CheckpointError
from gpt2spec.optimizer import initial_state
from gpt2spec.parameters import initial_parameters
from gpt2spec.training.saved import how_to_resume
from gpt2spec.training.settings import same_shape
from gpt2spec.tree import Tree


def fresh_state(backend: Backend, config: GPT2Config, seed: int, initial: CheckpointReader | None = None) -> Tree:
    """Optimizer state before the first step: initial weights, or those of the checkpoint `initial`."""
    if initial is None:
        params = initial_parameters(config, seed)
    elif same_shape(initial.config, config):
        params = initial.params()
    else:
        raise CheckpointError(f"{initial.path} holds another model than the run's settings describe")
    return initial_state(backend.ops, backend.load_params(params))


def restored_state(
    backend: Backend, config: GPT2Config, run: Path, seed: int, at: int | None, init_from: str | None = None
) -> tuple[Tree, int]:
    """Optimizer state and step of the checkpoint of step `at`, or the last one.

    A run that was stopped before its first checkpoint begins again.
    """
    if at is None and not checkpoint_steps(run):
        initial = None if init_from is None else open_checkpoint(init_from)
        return fresh_state(backend, config, seed, initial), 0
    step = chosen_step(run, at)
    with _offering_the_one_before(run, step):
        checkpoint = open_native(checkpoint_folder(run, step))
    if checkpoint.config != config:
        raise CheckpointError(f"{checkpoint.folder} holds another model than the run's config.toml describes")
    with _offering_the_one_before(run, step):
        if backend.sharding is not None and loads_sharded(backend, checkpoint):
            return load_sharded(checkpoint, backend.sharding), step
        params, training = checkpoint.params(), checkpoint.training()
    host = {"params": params, "m": training.m, "v": training.v}
    return {name: backend.load_params(values) for name, values in host.items()}, step


@contextmanager
def _offering_the_one_before(run: Path, step: int) -> Iterator[None]:
    """Add to a `CheckpointError` about the checkpoint of `step` how to go on from an earlier one."""
    try:
        yield
    except CheckpointError as error:
        earlier = [each for each in checkpoint_steps(run) if each < step]
        if not earlier:
            raise
        raise CheckpointError(
            f"{error}; the one before is of step {earlier[-1]}: continue from it with: "
            f"{how_to_resume(run, earlier[-1])}"
        ) from error


def discard_after(run: Path, step: int) -> None:
    """Remove the checkpoints of steps that will be done again."""
    for later in reversed(checkpoint_steps(run)):  # killed halfway, it leaves a run that ends earlier
        if later > step:
            remove_checkpoint(checkpoint_folder(run, later))


def check_same_data(run: Path, data: dict[str, Any], dataset: Dataset) -> None:
    """Raise unless `dataset` is what `data`, the run's data.json, describes."""
    if data["fingerprint"] != dataset.fingerprint:
        raise CheckpointError(
            f"{run} was trained on {data['name']} ({data['fingerprint'][:12]}), not on {dataset.name} "
            f"({dataset.fingerprint[:12]}): a resumed run needs the same data"
        )
