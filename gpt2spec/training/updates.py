"""What one update of a run takes: its batch in parts, its learning rate, its dropout; and the update itself."""

from typing import Any

import numpy as np

from gpt2spec.accumulation import Accept, MicroBatch, accumulated_step, shares
from gpt2spec.backend import Backend
from gpt2spec.config import GPT2Config
from gpt2spec.data.batches import Batches
from gpt2spec.data.shards import Tokens
from gpt2spec.ops import Key
from gpt2spec.optimizer import update_scalars
from gpt2spec.random import stream_key
from gpt2spec.training.settings import RunSettings
from gpt2spec.tree import Tree


class Updates:
    """The updates of a run, each known from its number alone."""

    def __init__(
        self,
        settings: RunSettings,
        backend: Backend,
        config: GPT2Config,
        train: Tokens,
        accept: Accept | None = None,
    ) -> None:
        """With `accept`, an update that it refuses is not made: see `accumulated_step`."""
        self.backend, self.config, self.seed = backend, config, settings.seed
        self.adamw, self.schedule, self.sizes = (
            settings.adamw(),
            settings.schedule(),
            settings.parts(backend.processes.ranks),
        )
        self.windows = settings.windows_per_step()
        ranks = {"rank": backend.processes.rank, "ranks": backend.processes.ranks}
        self.batches = Batches(train, self.windows, settings.window(), settings.seed, **ranks)
        self.shares = [backend.put(np.float64(share)) for share in shares(self.sizes)]
        self.step = accumulated_step(backend, config, self.adamw, accept)

    def run(self, state: Tree, update: int) -> tuple[Tree, dict[str, Any]]:
        """The `update`-th update, from 1: the new state, and what is logged of it, losses still on the device."""
        lr = self.schedule(update)
        scalars = update_scalars(self.adamw, lr, update)
        on_device = {name: self.backend.put(np.float64(value)) for name, value in scalars.items()}
        state, metrics = self.step(state, self._parts(update), on_device)
        return state, {"step": update, "lr": lr, **metrics}

    def _parts(self, update: int) -> list[MicroBatch]:
        """This process's rows [B, T] of the batch, some at a time."""
        tokens, targets = self.batches.at((update - 1) * self.windows)
        parts, start = [], 0
        for part, (size, share) in enumerate(zip(self.sizes, self.shares, strict=True)):
            rows = slice(start, start + size)
            inputs = (self.backend.put_rows(tokens[rows]), self.backend.put_rows(targets[rows]))
            parts.append(MicroBatch(*inputs, share, self._dropout_key(update, part)))
            start += size
        return parts

    def _dropout_key(self, update: int, part: int) -> Key | None:
        """The source of dropout in a part of an update, or None for a model without.

        No two parts share numbers, in one process or in several.
        """
        if self.config.dropout == 0.0 and self.config.attn_dropout == 0.0:
            return None
        stream = part * self.backend.processes.ranks + self.backend.processes.rank
        seed = stream_key(self.seed, "dropout", stream) % 2**31 if stream else self.seed
        return self.backend.dropout_key(seed, update)
