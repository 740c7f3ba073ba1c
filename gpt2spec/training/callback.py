"""What a run does between its steps: validate, sample, save, score."""

from typing import Protocol


class Callback(Protocol):
    """Something that a run does now and then, after a step."""

    def due(self, step: int) -> bool:
        """Whether it is time for it after `step` updates."""

    def run(self) -> None:
        """Do it, with the weights as they are now."""
