"""Which checkpoints of a run stay when room is made."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from gpt2spec.checkpoints.native import checkpoint_folder, checkpoint_steps, remove_checkpoint


def kept(steps: Iterable[int], last: int, every: int, best: int | None) -> set[int]:
    """Of some checkpoints' steps: the `last` ones, multiples of `every` (0: none), and the `best`."""
    steps = sorted(steps)
    return {*steps[-last:], *(step for step in steps if (every and step % every == 0) or step == best)}


def best_step(val_losses: Mapping[int, float]) -> int | None:
    """The step with the lowest validation loss, the first one on ties."""
    return min(val_losses, key=lambda step: (val_losses[step], step), default=None)


def make_room(run: Path, last: int, every: int, best: int | None) -> None:
    """Remove the checkpoints of a run that are not to be kept."""
    steps = checkpoint_steps(run)
    for step in sorted(set(steps) - kept(steps, last, every, best)):
        remove_checkpoint(checkpoint_folder(run, step))
