"""This module says which step of a run is saved when it ends, and how to resume it."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gpt2spec.checkpoints.native import checkpoint_steps
from gpt2spec.errors import StorageError
from gpt2spec.training.background import Background
from gpt2spec.training.profiling import ProfiledUpdates


def what_is_saved(run: Path) -> str:
    """A sentence about the last step that is saved."""
    steps = checkpoint_steps(run)
    return f"step {steps[-1]} is saved" if steps else "nothing was saved before"


def how_to_resume(run: Path, step: int | None = None) -> str:
    """The command that continues a run."""
    return f"gpt2spec train --out {shlex.quote(str(run))} --resume" + ("" if step is None else f" {step}")


@contextmanager
def brought_to_an_end(run: Path, background: Background, profiled: ProfiledUpdates) -> Iterator[None]:
    """At the end of the block, wait for the checkpoint that is being written, and close the trace.

    A `StorageError` says as well what is saved, and how to continue.
    """
    try:
        with _saying_what_is_saved(run, background):
            yield
    finally:
        with _saying_what_is_saved(run, background):
            try:
                background.wait()
            finally:
                profiled.close()


@contextmanager
def _saying_what_is_saved(run: Path, background: Background) -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        with suppress(StorageError):
            background.wait()  # the checkpoint under way is saved then
        advice = f"Put that right, then continue with: {how_to_resume(run)}"
        raise StorageError(f"{error}; {what_is_saved(run)}. {advice}") from error
