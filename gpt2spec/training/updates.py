"""This module makes the updates of a run, each with its micro-batches, learning rate and dropout."""

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
from gpt2spec.training.settings import UpdatePlan
from gpt2spec.tree import Tree


class Updates:
    """The updates of a run, each known from its number alone."""

    def __init__(
        self, plan: UpdatePlan, backend: Backend, config: GPT2Config, train: Tokens, accept: Accept | None = None
    ) -> None:
        """Make updates after `plan` from the tokens `train`; those that `accept` refuses are left out.

        See `accumulated_step`.
        """
        self.plan, self.backend, self.config = plan, backend, config
        processes = backend.processes
        self.batches = Batches(train, plan.windows, plan.context, plan.seed, rank=processes.rank, ranks=processes.ranks)
        self.sizes = [size // processes.ranks for size in plan.micro_batches]
        self.shares = [backend.put(np.float64(share)) for share in shares(self.sizes)]
        self.step = accumulated_step(backend, config, plan.adamw, accept)

    def run(self, state: Tree, update: int) -> tuple[Tree, dict[str, Any]]:
        """Make update number `update`, counted from 1. Returns the new state and the metrics, still on the device."""
        lr = self.plan.schedule(update)
        scalars = update_scalars(self.plan.adamw, lr, update)
        on_device = {name: self.backend.put(np.float64(value)) for name, value in scalars.items()}
        state, metrics = self.step(state, self.micro_batches(update), on_device)
        return state, {"step": update, "lr": lr, **metrics}

    def micro_batches(self, update: int) -> list[MicroBatch]:
        """The micro-batches of this process's rows [B, T] of the batch."""
        tokens, targets = self.batches.at((update - 1) * self.plan.windows)
        found, start = [], 0
        for number, (size, share) in enumerate(zip(self.sizes, self.shares, strict=True)):
            rows = slice(start, start + size)
            inputs, labels = (self.backend.put_rows(array[rows]) for array in (tokens, targets))
            found.append(MicroBatch(inputs, labels, share, self._dropout_key(update, number)))
            start += size
        return found

    def _dropout_key(self, update: int, number: int) -> Key | None:
        """The key of dropout in a micro-batch of an update; None for a model without dropout.

        No two micro-batches share random numbers, in one process or in different ones.
        """
        if self.config.dropout == 0.0 and self.config.attn_dropout == 0.0:
            return None
        stream = number * self.backend.processes.ranks + self.backend.processes.rank
        seed = stream_key(self.plan.seed, "dropout", stream) % 2**31 if stream else self.plan.seed
        return self.backend.dropout_key(seed, update)
