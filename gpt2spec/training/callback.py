"""Callbacks are what a run does between its steps: validate, sample, save, score."""

from typing import Protocol


class Callback(Protocol):
    """Something that a run does now and then, after a step."""

    def due(self, step: int) -> bool:
        """Whether this is due after `step` updates."""

    def run(self) -> None:
        """Do this with the current weights."""
