"""A trace of a few updates, by the framework's own profiler."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gpt2spec.backend import Backend
from gpt2spec.errors import ConfigError
from gpt2spec.files import make_folder, storage_errors

FOLDER = "profile"
WARM = 2
"""Updates before the trace begins: they compile."""


def check_count(count: int | None) -> None:
    """Raise `ConfigError` unless `count` updates can be traced."""
    if count is not None and count < 1:
        raise ConfigError(f"--profile takes a number of updates of at least 1, not {count}")


class ProfiledUpdates:
    """Switches the profiler on and off around some updates."""

    def __init__(self, backend: Backend, run: Path, count: int | None, message: Callable[[str], None]) -> None:
        """Trace `count` updates of the run in the folder `run`, and show where the trace is; None is no trace."""
        self._backend, self._folder, self._message, self._stack = backend, run / FOLDER, message, ExitStack()
        self._last = 0 if count is None else WARM + count
        self._updates = 0

    @contextmanager
    def update(self) -> Iterator[None]:
        """Count the update inside; the trace begins before the first that is traced, and ends after the last."""
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
        """End the trace, if the run ended before it was time to."""
        with storage_errors(self._folder):
            self._stack.close()
