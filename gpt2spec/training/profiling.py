"""A trace of a few updates, by the framework's own profiler."""

from contextlib import ExitStack
from pathlib import Path

from gpt2spec.backend import Backend
from gpt2spec.errors import ConfigError
from gpt2spec.files import make_folder, storage_errors

FOLDER = "profile"
WARM = 2
"""Updates before the trace begins: they compile."""


class ProfiledUpdates:
    """Switches the profiler on and off around some updates."""

    def __init__(self, backend: Backend, run: Path, done: int, count: int | None) -> None:
        """Trace `count` updates, of a run that has `done` some; None is no trace."""
        if count is not None and count < 1:
            raise ConfigError(f"--profile takes a number of updates of at least 1, not {count}")
        self._backend, self._folder, self._stack = backend, run / FOLDER, ExitStack()
        self._first = done + WARM + 1
        self._last = self._first + count - 1 if count is not None else 0

    def before(self, update: int) -> None:
        """Begin, if this is the first one."""
        if update == self._first and self._last:
            with storage_errors(make_folder(self._folder)):
                self._stack.enter_context(self._backend.profile(self._folder))

    def after(self, update: int) -> Path | None:
        """End, if this was the last one: where the trace is."""
        if update != self._last:
            return None
        self._backend.synchronize()
        self.close()
        return self._folder

    def close(self) -> None:
        """End, if the run did before it was time to."""
        with storage_errors(self._folder):
            self._stack.close()
