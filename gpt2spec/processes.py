"""The processes that train one model, and how they communicate apart from exchanging tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gpt2spec.errors import BackendError, GPT2SpecError


class Processes:
    """The processes of a job, of which this one is `rank` of `ranks`. This class itself is for a single process.

    A backend with several processes overrides `any` and `leave`, from which all else follows. Every process must call
    the same methods in the same order.

    Attributes:
        rank: the number of this process, counted from 0.
        ranks: the number of processes.
    """

    def __init__(self, rank: int = 0, ranks: int = 1) -> None:
        self.rank, self.ranks = rank, ranks

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and messages for all of them."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether `flag` holds in any process. The host waits for all processes; accelerators continue."""
        return flag

    def barrier(self) -> None:
        """Wait until every process has called this."""
        self.any(False)

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """Run a block in which every process does its share; if it fails in one process, it fails in all.

        Failures are `GPT2SpecError` and `OSError`; any other exception ends its process at once.
        """
        failure: Exception | None = None
        try:
            yield
        except (GPT2SpecError, OSError) as error:
            failure = error
        if self.any(failure is not None):
            raise failure or BackendError(f"process {self.rank} of {self.ranks} ends with another one: see its message")

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Run a block in the first process before the others, which may then find the work done."""
        if not self.first:
            self.barrier()
        yield
        if self.first:
            self.barrier()

    def leave(self) -> None:
        """Close the connection of the processes, at the end."""


ALONE = Processes()
"""A single process, which is the default of every backend."""
