"""The command line answers at once, says what is wrong in one line, and exits with a code that means something."""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
import warnings
from importlib.metadata import version

import pytest

from gpt2spec.cli.main import COMMANDS, main
from gpt2spec.errors import DataError

HELP_BUDGET = 0.4
"""Seconds that `gpt2spec --help` may take, the interpreter's start included."""


def gpt2spec(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gpt2spec", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload]


@pytest.fixture
def fake_command(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The command `plot` replaced by one that the test gives its `run`."""
    module = types.ModuleType("gpt2spec.cli.plot")
    vars(module).update(NAME="plot", HELP="a test", add_arguments=lambda parser: None)
    monkeypatch.setitem(sys.modules, "gpt2spec.cli.plot", module)
    return module


def test_help_names_every_command_in_order() -> None:
    ran = gpt2spec("--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    listed = [line.split()[0] for line in ran.stdout.splitlines() if re.match(r"    \S", line)]
    assert listed == list(COMMANDS)


def test_help_answers_at_once() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        assert gpt2spec("--help").returncode == 0
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < HELP_BUDGET


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: gpt2spec {name} ")


def test_version() -> None:
    ran = gpt2spec("--version")
    assert (ran.returncode, ran.stdout) == (0, f"gpt2spec {version('gpt2spec')}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["trian"], "there is no command 'trian' (did you mean 'train'?)"),
        (["info", "--contxt", "8"], "there is no option '--contxt' (did you mean '--context'?)"),
        (["info", "--contxt=8"], "there is no option '--contxt=8' (did you mean '--context'?)"),
        (["info", "--cont", "8"], "there is no option '--cont'"),
        (["info", "test", "nano"], "unexpected argument 'nano'"),
        (["info", "--batch-size", "many"], "invalid int value: 'many'"),
        (["--verison"], "the following arguments are required: COMMAND"),
    ],
)
def test_usage_error_exits_with_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err.splitlines()[-1]


def test_user_error_is_one_line_without_a_traceback() -> None:
    ran = gpt2spec("info", "gpt3")
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
    assert ran.stderr.startswith("gpt2spec: error: there is no preset 'gpt3' (did you mean 'gpt2'?)")


def test_message_of_many_lines_is_shown_in_one(
    fake_command: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: argparse.Namespace) -> int:
        raise DataError("no corpus\n  at 'a'")

    fake_command.run = run  # type: ignore[attr-defined]
    assert main(["plot"]) == 2
    assert capsys.readouterr().err == "gpt2spec: error: no corpus at 'a'\n"


def test_defect_keeps_its_traceback(fake_command: types.ModuleType) -> None:
    fake_command.run = lambda args: 1 / 0  # type: ignore[attr-defined]
    with pytest.raises(ZeroDivisionError):
        main(["plot"])


def test_exit_code_is_the_commands(fake_command: types.ModuleType) -> None:
    fake_command.run = lambda args: 7  # type: ignore[attr-defined]
    assert main(["plot"]) == 7


def test_interrupt_exits_with_130_and_a_short_line(
    fake_command: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_command.run = lambda args: signal.raise_signal(signal.SIGINT)  # type: ignore[attr-defined]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs without it
    try:
        assert main(["plot"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "gpt2spec: interrupted\n"


@pytest.mark.skipif(os.name != "posix", reason="other systems have no broken pipes")
@pytest.mark.parametrize("arguments", [["--help"], ["info", "gpt2", "--json"]])
def test_reader_that_has_gone_is_no_reason_to_complain(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "gpt2spec", *arguments]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    ran = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, env=buffered)
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (141, "")


NOISE = """
import logging, sys, types, warnings
from gpt2spec.cli.main import main

def run(args):
    framework = types.ModuleType("framework")
    exec("import warnings; warnings.warn('a warning of a framework')", vars(framework))
    logging.getLogger("framework").warning("a log message of a framework")
    logging.getLogger("framework").error("an error of a framework")
    warnings.warn_explicit("a warning of our own", UserWarning, "file", 1, module="gpt2spec.data")
    return 0

command = types.ModuleType("gpt2spec.cli.plot")
vars(command).update(NAME="plot", HELP="a test", add_arguments=lambda parser: None, run=run)
sys.modules["gpt2spec.cli.plot"] = command
sys.exit(main(["plot"]))
"""


def test_warnings_of_frameworks_stay_off_the_screen() -> None:
    ran = subprocess.run([sys.executable, "-c", NOISE], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0
    assert "of a framework" not in ran.stderr.replace("an error of a framework", "")
    assert "an error of a framework" in ran.stderr
    assert "a warning of our own" in ran.stderr


def test_warnings_of_frameworks_show_on_request() -> None:
    ran = subprocess.run([sys.executable, "-W", "always", "-c", NOISE], capture_output=True, text=True, timeout=60)
    assert "a warning of a framework" in ran.stderr
    assert "a log message of a framework" in ran.stderr


def test_main_leaves_warnings_as_they_were(fake_command: types.ModuleType) -> None:
    fake_command.run = lambda args: 0  # type: ignore[attr-defined]
    before = list(warnings.filters)
    main(["plot"])
    assert list(warnings.filters) == before


def test_backends_lists_the_numpy_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backends"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("numpy ")]
    assert f"gpt2spec {version('gpt2spec')}" in line
    assert " ready " in line


def test_backends_verbose_shows_framework_versions_and_json_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backends", "--verbose"]) == 0
    assert f"  autograd {version('autograd')}\n" in capsys.readouterr().out
    assert main(["backends", "--json"]) == 0
    (numpy,) = [row for row in json.loads(capsys.readouterr().out) if row["name"] == "numpy"]
    assert numpy["status"] == "ready"
    assert numpy["frameworks"]["numpy"] == version("numpy")


def test_backends_shows_the_traceback_of_a_broken_plugin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from importlib.metadata import EntryPoint

    from gpt2spec import plugins

    point = EntryPoint("acme", "no_such_module.plugin", "gpt2spec")
    monkeypatch.setattr(plugins, "default_registry", plugins.PluginRegistry([point]))
    assert main(["backends"]) == 0
    assert "broken: ModuleNotFoundError: No module named 'no_such_module'" in capsys.readouterr().out
    assert main(["backends", "--verbose"]) == 0
    assert "Traceback (most recent call last):" in capsys.readouterr().out
