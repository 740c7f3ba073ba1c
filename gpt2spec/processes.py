"""The processes that train one model together, and what they say to each other beside the tensors' own traffic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gpt2spec.errors import BackendError, GPT2SpecError


class Processes:
    """The processes of a job, of which this one is `rank` of `ranks`. As it stands, it is a process alone.

    A backend of several processes overrides `any` and `leave`; all else follows from them. Whatever is called here
    must be called by every process, in one order.

    Attributes:
        rank: which of the processes this is, from 0.
        ranks: how many there are.
    """

    def __init__(self, rank: int = 0, ranks: int = 1) -> None:
        self.rank, self.ranks = rank, ranks

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks for all of them."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether `flag` holds in any process. The host waits for all of them; accelerators go on."""
        return flag

    def barrier(self) -> None:
        """Wait until every process has come here."""
        self.any(False)

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """A piece of work that every process does its share of: where one fails, all of them fail.

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
        """A piece of work that the first process does before the others, which may then find it done."""
        if not self.first:
            self.barrier()
        yield
        if self.first:
            self.barrier()

    def leave(self) -> None:
        """End the processes' connection, when all is done."""


ALONE = Processes()
"""A process alone, which every backend has by default."""
