"""This module decides which checkpoints of a run are kept, and removes the others."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from gpt2spec.checkpoints.native import checkpoint_folder, checkpoint_steps, remove_checkpoint


class Retention(NamedTuple):
    """Which checkpoints are kept.

    Attributes:
        last: how many of the last ones.
        every: those of steps that are multiples of it; 0 is none.
        best: whether the one of the lowest validation loss.
    """

    last: int
    every: int
    best: bool


def kept(steps: Iterable[int], last: int, every: int, best: int | None) -> set[int]:
    """The steps that stay: the `last` ones, multiples of `every` (0: none), and the `best`."""
    steps = sorted(steps)
    return {*steps[-last:], *(step for step in steps if (every and step % every == 0) or step == best)}


def best_step(val_losses: Mapping[int, float]) -> int | None:
    """The step with the lowest validation loss, the first one on ties."""
    return min(val_losses, key=lambda step: (val_losses[step], step), default=None)


def make_room(run: Path, retention: Retention, best: int | None) -> None:
    """Remove the checkpoints of a run that are not to be kept; `best` is the step of the lowest validation loss."""
    steps = checkpoint_steps(run)
    for step in sorted(set(steps) - kept(steps, retention.last, retention.every, best if retention.best else None)):
        remove_checkpoint(checkpoint_folder(run, step))
