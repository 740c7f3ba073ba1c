"""A training run that is killed at random moments loses nothing that it had saved, and ends as if it had not been."""

import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kills import KILLS, Victims, timed, victims

from gpt2spec.checkpoints.native import checkpoint_folder, checkpoint_steps, open_native, recorded_sums
from gpt2spec.cli.main import main

STEPS = 24
OPTIONS = ["--preset", "test", "--context", "32", "--batch-size", "4", "--steps", str(STEPS), "--dropout", "0.1"]
OPTIONS += ["--checkpoint-every", "3", "--keep", "2", "--keep-every", "12", "--keep-best", "--eval-every", "4"]
OPTIONS += ["--sample-every", "6", "--sample-tokens", "4"]


def command(*arguments: str) -> int:
    """The command that a process runs."""
    return main(list(arguments))


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Victims]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with victims(
        tmp_path, "test_kills", "gpt2spec.cli.train", "gpt2spec.training.loop", "gpt2spec_numpy.fast_ops"
    ) as found:
        yield found


def lines(run: Path, name: str) -> list[Any]:
    """The objects in a file of a run, the last line of which may have been torn; without rates."""
    whole = (run / name).read_bytes().split(b"\n")[:-1] if (run / name).exists() else []
    found = [json.loads(line) for line in whole]
    return [{key: x for key, x in each.items() if key not in ("tokens_per_second", "peak_memory")} for each in found]


def everything(run: Path) -> Any:
    """Everything that two runs must have in common: checkpoints, metrics and samples."""
    sums = {step: recorded_sums(checkpoint_folder(run, step)) for step in checkpoint_steps(run)}
    names = sorted(str(path.relative_to(run)) for path in run.rglob("*"))
    return sums, lines(run, "metrics.jsonl"), lines(run, "samples.jsonl"), names


def assert_nothing_lies(run: Path, reported: list[int]) -> None:
    """All checkpoints are whole, and the last that had been seen is there unless a later one is."""
    steps = checkpoint_steps(run)
    assert not reported or steps[-1] >= reported[-1]
    for step in steps:
        folder = checkpoint_folder(run, step)
        open_native(folder).verify(recorded_sums(folder))
        open_native(folder).params()
        assert open_native(folder).training().progress["step"] == step
    seen = [line["step"] for line in lines(run, "metrics.jsonl")]
    assert seen == list(range(1, len(seen) + 1)) and len(seen) >= (steps or [0])[-1]
    lines(run, "samples.jsonl")


def assert_answers(capsys: pytest.CaptureFixture[str], *arguments: object) -> None:
    """A command on the run works, or says in one line why not."""
    capsys.readouterr()
    code = main(list(map(str, arguments)))
    errors = capsys.readouterr().err
    assert code == 0 or (code == 2 and errors.startswith("gpt2spec: error: ") and errors.count("\n") == 1), errors


def killed_once(processes: Victims, run: Path, moment: float | None, *call: Any) -> tuple[int, list[int]]:
    """How a call ended, and the steps of the checkpoints that the run had when it was killed."""
    reported: list[int] = []
    return processes.run(*call, run, until=moment, before=lambda: reported.extend(checkpoint_steps(run))), reported


def test_killed_at_random_moments_a_run_ends_as_if_it_had_not_been(
    processes: Victims, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "squares.txt"
    text.write_text("".join(f"{n} squared is {n * n}; {n} times {n + 1} is {n * (n + 1)}.\n" for n in range(300)))
    train = ("test_kills", "command", "train", text, *OPTIONS, "--auto-resume", "--out")
    assert processes.run(*train, tmp_path / "first") == 0, processes.errors
    life = timed(processes, *train, tmp_path / "straight")
    expected, choose = everything(tmp_path / "straight"), random.Random(time.time_ns())
    run, runs, kills = tmp_path / "0", 0, 0
    while kills < KILLS or run.exists():
        moment = choose.uniform(0.0, life) if kills < KILLS else None
        code, reported = killed_once(processes, run, moment, *train)
        assert code in (0, -signal.SIGKILL), processes.errors
        if code == 0:
            assert everything(run) == expected
            run, runs = tmp_path / str(runs + 1), runs + 1
            continue
        kills += 1
        if run.exists():
            assert_nothing_lies(run, reported)
            assert_answers(capsys, "generate", "--checkpoint", run, "--prompt", "1", "--max-new-tokens", 2)
            if kills % 5 == 0:
                assert_answers(capsys, "plot", run, "--out", tmp_path / "loss.svg")
    assert runs > 0
