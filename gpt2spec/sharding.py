"""This module gathers, copies, saves and loads weights of which each device has only a shard."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpt2spec.processes import ALONE, Processes
from gpt2spec.tree import Tree


class StoredTensor(NamedTuple):
    """A tensor in the files of a sharded checkpoint.

    Attributes:
        shape: the shape of the whole.
        dtype: the dtype of the files, such as "float32".
        read: reads the whole [*shape].
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


class Sharding(ABC):
    """How a backend keeps parameters and moments that are split over several devices.

    Attributes:
        processes: the processes that save and load.
        across_processes: whether no process has all of a parameter. Then every process must call `Backend.dump_params`,
            `Backend.decoding_params` and `Backend.to_numpy` of a parameter, and checkpoints are sharded by default.
    """

    processes: Processes = ALONE
    across_processes: bool = True

    def gather(self, params: Tree) -> Tree:
        """Device parameters that functions of `Backend.jit` may read one by one. Every process must call this."""
        return params

    def snapshot(self, state: Tree) -> tuple[Sharding, Tree] | None:
        """Copy the optimizer's state to the hosts. Returns a sharding that saves it in another thread, and the copy.

        That sharding uses its own process group, so its messages cannot mix with those of the training steps. The
        result is None where the framework cannot do this; the next steps then wait until the state is saved.
        """
        return None

    def check_available(self) -> None:  # noqa: B027 - most need only their framework
        """Raise `BackendError` where a package that `save` and `load` need is missing."""

    @abstractmethod
    def save(self, params: Tree, folder: Path) -> None:
        """Write the shards of parameters, or of their moments, that this process holds to `folder`, which all see.

        Every process must call this, and if it fails in one, it fails in all. `load` and `BackendInfo.open_sharded`
        read the files, in which parameters have their names on the host. Errors of files are an `OSError` or a
        `BackendError`.
        """

    @abstractmethod
    def load(self, folder: Path, shapes: dict[str, tuple[int, ...]]) -> Tree:
        """Read what any number of processes saved. Each process reads the shards that it needs.

        `shapes` has the names of all parameters and their shapes on the host.
        """
