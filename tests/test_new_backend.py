"""`gpt2spec new-backend` writes a project that works where a third party installs it, and says why it cannot."""

import ast
import errno
import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from gpt2spec_conformance.cases import all_cases
from test_wheel import ROOT, run, wheel  # noqa: F401 - a fixture

from gpt2spec.cli.main import main
from gpt2spec.ops import TensorOps
from gpt2spec.scaffold import new_backend

TUTORIAL = (ROOT / "docs" / "write-a-backend.md").read_text(encoding="utf-8")
FILES = {
    ".github/workflows/ci.yml",
    "README.md",
    "pyproject.toml",
    "src/gpt2spec_acme_x2/__init__.py",
    "src/gpt2spec_acme_x2/backend.py",
    "src/gpt2spec_acme_x2/create.py",
    "src/gpt2spec_acme_x2/ops.py",
    "src/gpt2spec_acme_x2/plugin.py",
    "tests/test_conformance.py",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose name differs from the templates' in every way that it can."""
    return new_backend("acme_x2", tmp_path / "project")


def test_every_file_bears_the_name(project: Path) -> None:
    assert {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()} == FILES
    texts = {path: (project / path).read_text() for path in FILES}
    assert [path for path, text in texts.items() if "acme_x2" not in text] == []
    assert [path for path, text in texts.items() if "mychip" in text.lower()] == []
    assert "class AcmeX2Backend(Backend):" in texts["src/gpt2spec_acme_x2/backend.py"]


def test_every_primitive_is_spelled_out_in_one_statement(project: Path) -> None:
    tree = ast.parse((project / "src" / "gpt2spec_acme_x2" / "ops.py").read_text())
    (ops,) = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    methods = {node.name: node for node in ops.body if isinstance(node, ast.FunctionDef)}
    assert methods.keys() - {"__init__"} == TensorOps.__abstractmethods__
    assert [name for name, method in methods.items() if len(method.body) > 1] == ["__init__"]


@pytest.mark.parametrize("command", ["check --select E,F,W,I,UP,B,SIM,RUF", "format --check"])
def test_project_passes_ruff(project: Path, command: str) -> None:
    subprocess.run([sys.executable, "-m", "ruff", *command.split()], cwd=project, check=True)


def test_project_is_named_after_the_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new-backend", "acme"]) == 0
    assert (tmp_path / "gpt2spec-acme" / "src" / "gpt2spec_acme" / "ops.py").is_file()
    assert capsys.readouterr().out.splitlines()[0] == "wrote gpt2spec-acme"


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line with which `gpt2spec new-backend` refuses."""
    assert main(["new-backend", *map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My-Chip", "'My-Chip' cannot be a backend's name (try 'my_chip')"),
        ("2chips", "'2chips' cannot be a backend's name (try 'chips')"),
        ("chip_", "'chip_' cannot be a backend's name (try 'chip')"),
        ("../chip", "'../chip' cannot be a backend's name (try 'chip')"),
        ("", "'' cannot be a backend's name:"),
        ("schön", "'schön' cannot be a backend's name"),
        ("numpy", "there is a backend 'numpy' already, from plugin 'numpy' of gpt2spec"),
        ("conformance", "there is a package 'gpt2spec_conformance' already"),
    ],
)
def test_name_that_cannot_be_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    assert message in refusal(capsys, name, "--out", tmp_path / "project")
    assert list(tmp_path.iterdir()) == []


def test_nothing_that_exists_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("empty", "file", "link"):
        assert f"{tmp_path / name} exists already; give another folder" in refusal(
            capsys, "acme", "--out", tmp_path / name
        )
    assert list((tmp_path / "empty").iterdir()) == []
    assert (tmp_path / "file").read_text() == "mine"


def test_folder_that_cannot_be_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert f"cannot write {tmp_path / 'file'}" in refusal(capsys, "acme", "--out", tmp_path / "file" / "project")
    assert "File name too long" in refusal(capsys, "acme", "--out", tmp_path / ("a" * 300))

    def deny(*args: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(Path, "mkdir", deny)
    assert "permission is denied" in refusal(capsys, "acme", "--out", tmp_path / "project")


# ---------------------------------------------------------------------- installed


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:  # noqa: F811
    """A new environment with gpt2spec's wheel, whose commands come first on the path.

    Dependencies are found in this environment, so nothing is downloaded.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{scripts}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("PIP_NO_DEPS", "1")
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # 0 is how pip spells that there is none
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        run(scripts / "python", "-m", "pip", "install", "--quiet", wheel, cwd=folder)
        site, borrowed = (Path(run(python, "-c", where).strip()) for python in (scripts / "python", sys.executable))
        (site / "borrowed.pth").write_text(f"{borrowed}\n")
        (scripts / "pytest").write_text('#!/bin/sh\nexec python -m pytest "$@"\n')  # pip would have made it
        (scripts / "pytest").chmod(0o755)
        yield folder


def shell(lines: str, cwd: Path) -> str:
    """The output of commands, each of which must succeed."""
    return run("sh", "-e", "-c", lines, cwd=cwd)


@pytest.fixture(scope="module")
def transcript(environment: Path) -> str:
    """The output of the tutorial's commands, up to training with the installed backend."""
    (commands,) = re.findall(r"^```sh\n(.*?)^```", TUTORIAL, flags=re.MULTILINE | re.DOTALL)
    return shell(commands, environment)


def test_environment_has_the_wheel_and_not_this_checkout(environment: Path) -> None:
    module = shell("python -c 'import gpt2spec; print(gpt2spec.__file__)'", environment)
    assert Path(module).is_relative_to(environment)


def test_new_project_passes_the_conformance_suite(transcript: str) -> None:
    (summary,) = re.findall(r"^=+ (.*) in [\d.]+s.* =+$", transcript, flags=re.MULTILINE)
    assert summary == f"{sum(case.level != 'int8' for case in all_cases())} passed"


def test_new_backend_is_listed(transcript: str) -> None:
    assert re.search(r"^mychip +gpt2spec-mychip 0\.1\.0 +ready ", transcript, flags=re.MULTILINE)


def test_new_backend_trains(transcript: str, environment: Path) -> None:
    assert re.search(r"^Validation loss \d\S+ nats per token, after 2 steps", transcript, flags=re.MULTILINE)
    assert any((environment / "gpt2spec-mychip" / "runs").rglob("*.safetensors"))


def test_broken_plugin_beside_it_is_reported_and_harms_nothing(transcript: str, environment: Path) -> None:
    shell("gpt2spec new-backend broken && pip install --quiet -e gpt2spec-broken", environment)
    plugin = environment / "gpt2spec-broken" / "src" / "gpt2spec_broken" / "plugin.py"
    plugin.write_text("raise RuntimeError('the driver is too old')\n")

    listed = {row["name"]: row for row in json.loads(shell("gpt2spec backends --json", environment))}
    assert {name: listed[name]["status"] for name in ("broken", "mychip", "numpy")} == {
        "broken": "broken",
        "mychip": "ready",
        "numpy": "ready",
    }
    assert listed["broken"]["fault"] == "RuntimeError: the driver is too old"
    for name in ("mychip", "numpy"):
        shell(f"gpt2spec train --backend {name} --preset test --steps 1 --out beside-{name}", environment)

    asked = subprocess.run(
        ["gpt2spec", "train", "--backend", "broken"], cwd=environment, capture_output=True, text=True, check=False
    )
    assert (asked.returncode, asked.stderr.count("\n")) == (2, 1)
    assert "RuntimeError: the driver is too old" in asked.stderr
