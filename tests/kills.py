"""Processes that are killed at random moments. They are forked from one that has already imported what takes long."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

KILLS = int(os.environ.get("GPT2SPEC_KILLS", "10"))
"""The number of kills of each command; `.ci/check` makes fifty."""

SERVER = """
import importlib, json, os, sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    importlib.import_module(name)
print("ready", flush=True)
for line in sys.stdin:
    module, function, arguments, errors = json.loads(line)
    if (child := os.fork()) == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.dup2(2, 1)
        sys.exit(getattr(importlib.import_module(module), function)(*arguments))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Victims:
    """Calls functions one at a time, each in its own process."""

    def __init__(self, server: subprocess.Popen[bytes], errors: Path) -> None:
        self._server, self._errors = server, errors

    def run(
        self, module: str, function: str, *arguments: Any, until: float | None = None, before: Callable[[], Any] = int
    ) -> int:
        """The exit code of a call, which is killed after so many seconds unless it has ended.

        `before` is called immediately before the kill.
        """
        request = json.dumps([module, function, list(map(str, arguments)), str(self._errors)])
        assert self._server.stdin is not None
        self._server.stdin.write(request.encode() + b"\n")
        self._server.stdin.flush()
        process = int(self._line())
        if not select.select([self._server.stdout], [], [], until)[0]:
            before()
            with contextlib.suppress(ProcessLookupError):  # it has just come to its end
                os.kill(process, signal.SIGKILL)
        return int(self._line())

    @property
    def errors(self) -> str:
        """The error output of the last call."""
        return self._errors.read_text()

    def _line(self) -> bytes:
        assert self._server.stdout is not None
        return self._server.stdout.readline()


@contextlib.contextmanager
def victims(folder: Path, *modules: str) -> Iterator[Victims]:
    """A `Victims` whose processes have already imported `modules`."""
    command = [sys.executable, "-c", SERVER, str(Path(__file__).parent), *modules]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as server:
        assert server.stdin is not None and server.stdout is not None
        server.stdout.readline()
        yield Victims(server, folder / "errors")
        server.stdin.close()


def timed(victims: Victims, *call: Any) -> float:
    """The seconds that a call takes."""
    start = time.monotonic()
    assert victims.run(*call) == 0, victims.errors
    return time.monotonic() - start
