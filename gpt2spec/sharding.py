"""Weights that no device has whole: gathering them, copying them, and keeping them in files as they are sharded."""

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
        processes: who saves and loads together.
        across_processes: no process has all of a parameter, so that every process must call `Backend.dump_params`,
            `Backend.decoding_params` and `Backend.to_numpy` of a parameter. Checkpoints are then sharded by default.
    """

    processes: Processes = ALONE
    across_processes: bool = True

    def gather(self, params: Tree) -> Tree:
        """Device parameters that functions of `Backend.jit` may read one by one. Every process must ask."""
        return params

    def snapshot(self, state: Tree) -> tuple[Sharding, Tree] | None:
        """A copy of the optimizer's state on the hosts, and what saves it in another thread while training goes on.

        That sharding has a process group of its own, so its messages cannot mix with those of the training steps.
        None where the framework cannot do this: the steps then wait until their state is saved.
        """
        return None

    def check_available(self) -> None:  # noqa: B027 - most need nothing more than their framework
        """Raise a `BackendError` where a package that `save` and `load` need is missing."""

    @abstractmethod
    def save(self, params: Tree, folder: Path) -> None:
        """Write the shards of parameters, or of their moments, that this process holds to `folder`, which all see.

        All processes call it together, and where one fails, all do. `load` and `BackendInfo.open_sharded` read the
        files, under the names that parameters have on the host. What goes wrong with a file is an `OSError` or a
        `BackendError`.
        """

    @abstractmethod
    def load(self, folder: Path, shapes: dict[str, tuple[int, ...]]) -> Tree:
        """What `save` wrote, in however many processes: each of these reads the shards that it is to hold.

        `shapes` has the names of all parameters and the shapes that they have on the host.
        """
