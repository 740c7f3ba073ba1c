"""`gpt2spec generate` as a process, with real interrupts, terminals, closed pipes and full disks."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from spelling_models import spelling_parameters, write_run

TEXT = "The quick brown fox"
FOREVER = ["--overflow", "slide", "--max-new-tokens", "1000000", "--ignore-end-of-text"]

posix = pytest.mark.skipif(os.name != "posix", reason="other systems have no such signals, pipes and terminals")


@pytest.fixture(scope="module")
def speller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "speller", spelling_parameters(TEXT))


START = """
import signal, sys
from gpt2spec.cli.main import main
if sys.stdin.isatty():
    import fcntl, termios
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # the terminal whose Ctrl-C reaches this process
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs without it
sys.exit(main(sys.argv[1:]))
"""


def command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-c", START, "generate", "--checkpoint", str(folder), *arguments]


@posix
def test_real_interrupt_leaves_whole_lines_in_order(babbler: Path) -> None:
    with subprocess.Popen(
        command(babbler, "--samples", "100000", "--json", "--ignore-end-of-text"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        lines = [process.stdout.readline() for _ in range(20)]
        process.send_signal(signal.SIGINT)
        lines += process.stdout.readlines()
        assert process.stderr.read() == "gpt2spec: interrupted\n"
    assert process.returncode == 130
    rows = [json.loads(line) for line in lines]
    assert [row["sample"] for row in rows] == list(range(len(rows)))
    reasons = [reason for reason, _ in itertools.groupby(row["finish_reason"] for row in rows)]
    assert reasons in (["length"], ["length", "interrupted"])


@posix
@pytest.mark.parametrize("arguments", [FOREVER, ["--samples", "100000", "--json"]])
def test_reader_that_has_gone_ends_it(arguments: list[str], babbler: Path) -> None:
    with subprocess.Popen(
        command(babbler, *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="other systems have no such device")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [[], ["--samples", "3"], ["--json"]])
def test_full_disk_is_one_error(arguments: list[str], unbuffered: str, speller: Path) -> None:
    with Path("/dev/full").open("w") as full:
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        ran = subprocess.run(
            command(speller, *arguments), stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, env=environment
        )
    assert ran.returncode == 2
    assert ran.stderr == "gpt2spec: error: cannot write the output: No space left on device\n"


class Terminal:
    """A process in its own terminal, which ends when the terminal is closed."""

    def __init__(self, arguments: list[str]) -> None:
        self.screen, terminal = os.openpty()
        self.process = subprocess.Popen(
            arguments, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
        )
        os.close(terminal)
        self.text = ""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.screen)

    def read_until(self, pattern: str) -> None:
        """Read until the text after the last match has another one; . matches ends of lines."""
        while not (found := re.search(pattern, self.text, flags=re.DOTALL)):
            self.text += os.read(self.screen, 4096).decode(errors="replace")
        self.text = self.text[found.end() :]

    def type(self, keys: str) -> None:
        os.write(self.screen, keys.encode())

    def exit_code(self) -> int:
        return self.process.wait(timeout=60)


@posix
def test_a_conversation_in_a_terminal(speller: Path) -> None:
    """Ctrl-C stops a text that would never end, and is followed by the next prompt."""
    with Terminal(command(speller, "--interactive", *FOREVER)) as terminal:
        terminal.read_until("Ctrl-D leaves.*> ")
        for line in ("T", "xyz"):
            terminal.type(f"{line}\n")
            terminal.read_until(line + TEXT[len(line) - 1 :])
            terminal.type("\x03")
            terminal.read_until(r"\^C\r\n.*> ")
        terminal.type("\x04")
        assert terminal.exit_code() == 0


@posix
def test_one_text_in_a_terminal(speller: Path) -> None:
    with Terminal(command(speller, "--prompt", "T")) as terminal:
        terminal.read_until(rf"^T{TEXT}\r\ngpt2spec: 19 tokens in .* tokens/s\r\n")
        assert terminal.exit_code() == 0


@posix
def test_interrupt_in_a_terminal(speller: Path) -> None:
    with Terminal(command(speller, "--prompt", "T", *FOREVER)) as terminal:
        terminal.read_until(f"T{TEXT}")
        terminal.type("\x03")
        terminal.read_until(r"\^C\r\ngpt2spec: interrupted\r\n")
        assert terminal.exit_code() == 130
