"""A training run in memory: what it is, and how far it has come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gpt2spec.backend import Backend
from gpt2spec.config import GPT2Config
from gpt2spec.data.dataset import Dataset
from gpt2spec.tasks.evaluate import Questions
from gpt2spec.tokenizer import Tokenizer
from gpt2spec.training.history import History
from gpt2spec.training.settings import RunSettings
from gpt2spec.tree import Tree


@dataclass
class Run:
    """A training run.

    `prepare` makes it from its settings; `state`, `step` and `history` are those of the run directory once that is
    opened.

    Attributes:
        settings: complete: what the preset, the recipe and the data decide is filled in.
        out: the run directory.
        backend: computes, and knows the other processes.
        config: the model's shape.
        dataset: what the model learns.
        tokenizer: encodes and decodes the data's ids; None for token files that do not say whose they are.
        questions: what the tasks of the run ask.
        state: weights and moments on the device; empty until a resumed run is opened.
        step: updates done.
        history: losses and gradient norms of the steps done.
        signals: the signals that have interrupted this process.
    """

    settings: RunSettings
    out: Path
    backend: Backend
    config: GPT2Config
    dataset: Dataset
    tokenizer: Tokenizer | None = None
    questions: Sequence[Questions] = ()
    state: Tree = field(default_factory=dict)
    step: int = 0
    history: History = field(default_factory=History)
    signals: list[int] = field(default_factory=list)

    @property
    def at_end(self) -> bool:
        """Whether the run needs no more steps, because all are done or patience has ended."""
        return self.step == self.settings.steps or self.history.exhausted

    def interrupted(self) -> bool:
        """Whether any process was interrupted. Every process must ask at the same point."""
        return self.backend.processes.any(bool(self.signals))
