"""This module traces a few updates with the framework's own profiler."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gpt2spec.backend import Backend
from gpt2spec.errors import ConfigError
from gpt2spec.files import make_folder, storage_errors

FOLDER = "profile"
WARM = 2
"""The trace begins after so many updates, which compile."""


def check_count(count: int | None) -> None:
    """Raise `ConfigError` unless `count` updates can be traced."""
    if count is not None and count < 1:
        raise ConfigError(f"--profile takes a number of updates of at least 1, not {count}")


class ProfiledUpdates:
    """Switches the profiler on before some updates and off after them."""

    def __init__(self, backend: Backend, run: Path, count: int | None, message: Callable[[str], None]) -> None:
        """Trace `count` updates of the run in the folder `run`, and show where the trace is; None is no trace."""
        self._backend, self._folder, self._message, self._stack = backend, run / FOLDER, message, ExitStack()
        self._last = 0 if count is None else WARM + count
        self._updates = 0

    @contextmanager
    def update(self) -> Iterator[None]:
        """Count the update in this block. The trace begins before the first traced one and ends after the last."""
        self._updates += 1
        if self._updates == WARM + 1 and self._last:
            with storage_errors(make_folder(self._folder)):
                self._stack.enter_context(self._backend.profile(self._folder))
        yield
        if self._updates == self._last:
            self._backend.synchronize()
            self.close()
            self._message(f"the trace is in {self._folder}")

    def close(self) -> None:
        """End the trace, if the run has ended before it."""
        with storage_errors(self._folder):
            self._stack.close()
