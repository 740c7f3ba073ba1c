"""`gpt2spec generate` prints texts on standard output, and progress and speed on standard error."""

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from spelling_models import spelling_parameters, write_run

from gpt2spec.cli.generate_output import visible
from gpt2spec.cli.generate_progress import Progress

TEXT = "naïve café ≥ 2 €.\nOK"
"""The text of the spelling model has characters of one, two and three bytes; each byte is a token."""


@pytest.fixture(scope="module")
def speller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "speller", spelling_parameters(TEXT))


class Screen(io.StringIO):
    """Standard output that records what is visible after each flush."""

    def __init__(self, terminal: bool = False) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.terminal = terminal

    def flush(self) -> None:
        if not self.seen or self.seen[-1] != self.getvalue():
            self.seen.append(self.getvalue())

    def isatty(self) -> bool:
        return self.terminal


def test_one_text_appears_as_it_is_made(speller: Path, run_generate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every character appears by itself, complete, after the prompt."""
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    assert run_generate(speller, "--prompt", "n")[0] == 0
    assert screen.seen == ["n", *("n" + TEXT[: i + 1] for i in range(len(TEXT))), f"n{TEXT}\n"]


def test_several_texts_have_headings(speller: Path, run_generate: Any) -> None:
    head = "n" + TEXT[:2]
    assert run_generate(speller, "--prompt", "n", "--samples", 2, "--max-new-tokens", 2)[1] == (
        f"=== sample 0 ===\n{head}\n\n=== sample 1 ===\n{head}\n"
    )
    assert run_generate(speller, "--prompt", "n", "--prompt", "x", "--max-new-tokens", 1)[1] == (
        "=== prompt 0 ===\nnn\n\n=== prompt 1 ===\nxn\n"
    )
    arguments = "--prompt n --prompt x --beams 2 --samples 2 --max-new-tokens 1"
    out = run_generate(speller, *arguments.split())[1]
    assert re.findall("===.*", out) == [
        f"=== prompt {prompt}, sample {sample}, score {score} ==="
        for prompt, sample, score in re.findall(r"prompt (\d), sample (\d), score (-?\d+\.\d{4})", out)
    ]
    assert len(re.findall("===.*", out)) == 4
    assert run_generate(speller, "--prompt", "n", "--beams", 2, "--max-new-tokens", 2)[1] == f"{head}\n"


def test_texts_do_not_depend_on_the_batch(babbler: Path, run_generate: Any) -> None:
    given = [word for i in range(5) for word in ("--prompt", "abcde"[:i])]
    outs = {run_generate(babbler, *given, "--samples", 2, "--batch-size", size)[1] for size in (1, 3, 16)}
    assert len(outs) == 1


def test_terminal_is_not_controlled_by_the_model(
    tmp_path: Path, run_generate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert visible("a\x1b[2J\r\x07\n\t\x9b é\x7f") == "a\\x1b[2J\\r\\x07\n\t\\x9b é\\x7f"
    write_run(tmp_path, spelling_parameters("a\x1b[2J"))
    assert run_generate(tmp_path)[1] == "a\x1b[2J\n"
    screen = Screen(terminal=True)
    monkeypatch.setattr(sys, "stdout", screen)
    run_generate(tmp_path)
    assert screen.getvalue() == "a\\x1b[2J\n"


def test_json_is_ascii(speller: Path, run_generate: Any) -> None:
    assert run_generate(speller, "--json")[1].isascii()


# Progress and speed.


def test_speed_is_told_on_terminals_alone(speller: Path, run_generate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_generate(speller, "--samples", 2)[2] == ""
    screen = Screen(terminal=True)
    monkeypatch.setattr(sys, "stderr", screen)
    run_generate(speller)
    words = r"gpt2spec: 26 tokens in \d+\.\d\d s, the first after \d+\.\d\d s: [\d,]+ tokens/s\n"
    assert re.fullmatch(words, screen.getvalue())
    for quiet in ([], ["--json"], ["--samples", 2]):
        monkeypatch.setattr(sys, "stderr", silent := Screen(terminal=True))
        run_generate(speller, "--quiet", *quiet)
        assert silent.getvalue() == ""


def test_bar_counts_tokens_on_terminals(speller: Path, run_generate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends full, although the texts are shorter than they might be, and leaves an empty line."""
    screen = Screen(terminal=True)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)
    run_generate(speller, "--samples", 3, "--json")
    *_, blank, summary = screen.getvalue().split("\r")
    assert blank.strip() == "" and summary.startswith("gpt2spec: 78 tokens in ")
    progress = Progress(3, 47)
    for _ in range(3):
        progress.add(26)
        progress.finish(26)
    assert (progress.bar.n, progress.bar.total) == (78, 78)
    progress.close()


def test_lines_tell_progress_elsewhere(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    monkeypatch.setattr("gpt2spec.cli.generate_progress.time.monotonic", lambda: now)
    progress = Progress(4, 100)
    for now in (1.0, 9.0, 10.0, 11.0, 19.0, 20.0):
        progress.add(10)
        if now == 11.0:
            progress.finish(40)
    progress.summarise()
    assert capsys.readouterr().err.splitlines() == [
        "0/4 texts  30 tokens  3 tokens/s  ETA 02:03",
        "1/4 texts  60 tokens  3 tokens/s  ETA 01:33",
        "gpt2spec: 60 tokens in 20.00 s, the first after 1.00 s: 3 tokens/s",
    ]


def test_help_needs_no_numpy() -> None:
    code = (
        "import sys; from gpt2spec.cli.main import main\ntry: main(['generate', '--help'])\nexcept SystemExit: pass\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code + "assert 'numpy' not in sys.modules"], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
