"""README.md and docs/ do what they say: their commands are run, their code is executed."""

import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt2spec.scaffold import new_backend

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LONG_RUNS = (ROOT / "docs" / "long-runs.md").read_text(encoding="utf-8")
DISTRIBUTED = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
TOKENIZER = (ROOT / "docs" / "tokenizer.md").read_text(encoding="utf-8")
DATA = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
GENERATING = (ROOT / "docs" / "generate.md").read_text(encoding="utf-8")
CHECKPOINTS = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
EVALUATING = (ROOT / "docs" / "evaluate.md").read_text(encoding="utf-8")
TUTORIAL = (ROOT / "docs" / "write-a-backend.md").read_text(encoding="utf-8")
INSTALL_AND_RUN = "pip install -c constraints.txt -e . && gpt2spec train"
INSTALL_AND_TEST = 'pip install -c constraints.txt -e ".[all,test]" && pytest -n 2 --dist loadfile'


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[str]:
    for block in blocks(text, "sh"):
        yield from block.strip().splitlines()


def shape_of(text: str) -> str:
    return re.sub(r"[\d.]+|-\d+", "#", re.sub(r"nano-\d+-\d+", "RUN", text.strip()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readme")
    (path / "my-texts").mkdir()
    (path / "my-texts" / "a.txt").write_text("The quick brown fox jumps over the lazy dog. " * 100)
    return path


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "XDG_CACHE_HOME": str(folder / "cache")}


def test_the_two_commands_are_those_that_are_tested() -> None:
    lines = list(commands(README))
    assert lines[:2] == [INSTALL_AND_RUN, INSTALL_AND_TEST]
    install = INSTALL_AND_TEST.removesuffix(" && pytest -n 2 --dist loadfile").removeprefix("pip install ")
    assert install in (ROOT / ".ci" / "run").read_text()
    assert install in (ROOT / "CONTRIBUTING.md").read_text()


def test_the_main_command_learns_within_two_minutes(folder: Path, environment: dict[str, str]) -> None:
    """The two minutes are meant for two idle cores; twice that is allowed for a machine that is shared."""
    start = time.monotonic()
    process = subprocess.run(
        ["gpt2spec", "train"], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    assert time.monotonic() - start < 240
    found = re.search(r"Validation loss (\S+) nats.*\n.* gives (\S+) ", process.stdout)
    assert found is not None, process.stdout
    assert float(found[1]) < float(found[2]) - 0.5
    transcript, _ = blocks(README, "text")  # the same words as now, whatever the figures
    assert shape_of(transcript).splitlines()[-3:] == shape_of(process.stdout).splitlines()[-3:]
    next_command = process.stdout.split("Use it: ")[1].strip()
    subprocess.run(next_command, shell=True, cwd=folder, env=environment, check=True, capture_output=True)


def run_line(line: str, folder: Path, environment: dict[str, str]) -> None:
    process = subprocess.run(
        line,
        shell=True,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, f"{line}\n{process.stderr}"


def test_every_other_command_works(folder: Path, environment: dict[str, str]) -> None:
    for line in commands(README):
        if line not in (INSTALL_AND_RUN, INSTALL_AND_TEST):
            run_line(line, folder, environment)


def test_the_python_example_works() -> None:
    (example,) = blocks(README, "python")
    names: dict[str, object] = {}
    exec(example, names)
    assert names["logits"].shape == (2, 4, 257)  # type: ignore[attr-defined]


def test_the_page_on_generating_works(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in commands(GENERATING):
        run_line(line, tmp_path, environment)
    monkeypatch.chdir(tmp_path)
    (example,) = blocks(GENERATING, "python")
    exec(example, {})
    assert capsys.readouterr().out.startswith("0 0 ")


@pytest.mark.parametrize(
    "page", [DATA, DISTRIBUTED, LONG_RUNS, TOKENIZER], ids=["data", "distributed", "long-runs", "tokenizer"]
)
def test_the_pages_on_training_work(folder: Path, environment: dict[str, str], page: str) -> None:
    for line in commands(page):  # the first torchrun on the path may be of another environment than this one
        run_line(line.replace("torchrun ", "python -m torch.distributed.run "), folder, environment)


def test_the_page_on_checkpoints_works(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in commands(CHECKPOINTS):
        run_line(line, tmp_path, environment)
    monkeypatch.chdir(tmp_path)
    (example,) = blocks(CHECKPOINTS, "python")
    exec(example, {})
    assert capsys.readouterr().out == "2 (257, 32)\n"


def test_the_page_on_evaluating_works(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offline = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    for line in commands(EVALUATING):
        if "gpt2spec.lm_eval" not in line or importlib.util.find_spec("lm_eval") is not None:
            run_line(line, tmp_path, {**environment, **offline})
    monkeypatch.chdir(tmp_path)
    first, plugin = blocks(EVALUATING, "python")
    exec(first, {})
    assert capsys.readouterr().out.startswith("perplexity of the last word ")
    names: dict[str, object] = {}
    exec(plugin, names)
    assert [info.name for info in names["gpt2spec_tasks"]()] == ["parrots"]  # type: ignore[operator]


def test_links_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "conformance" / "c" / "README.md"]
    for text, base in ((path.read_text(encoding="utf-8"), path.parent) for path in documents):
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert target.startswith("https://") or (base / target).exists(), target


def test_the_backend_of_the_tutorial_works(tmp_path: Path) -> None:
    """The tutorial's code is what `gpt2spec new-backend` writes. It is installed without pip, and its check is run."""
    project = new_backend("mychip", tmp_path / "gpt2spec-mychip")
    for block in blocks(TUTORIAL, "python"):
        if match := re.match(r"# (src/gpt2spec_mychip/\w+\.py)\n", block):
            assert block.removeprefix(match[0]) in (project / match[1]).read_text()
    (entry_point,) = blocks(TUTORIAL, "toml")
    assert entry_point in (project / "pyproject.toml").read_text()
    information = project / "src" / "gpt2spec_mychip-0.1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: gpt2spec-mychip\nVersion: 0.1.0\n")
    lines = entry_point.replace('"', "").splitlines()
    (information / "entry_points.txt").write_text("\n".join(["[gpt2spec]", *lines[1:]]))
    (check,) = [block for block in blocks(TUTORIAL, "python") if not block.startswith("# ")]
    environment = {**os.environ, "PYTHONPATH": str(project / "src"), "XDG_CACHE_HOME": str(tmp_path)}
    for line in (
        [sys.executable, "-c", check],
        [sys.executable, "-m", "gpt2spec", "train", "--backend", "mychip", "--preset", "test", "--steps", "3"],
    ):
        process = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stderr
