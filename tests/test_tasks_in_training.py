"""A run scores its model in tasks between steps, with the results of `gpt2spec eval`, and is not affected."""

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ranks import run_ranks
from task_samples import write_sample

from gpt2spec.checkpoints.native import checkpoint_folder
from gpt2spec.cli.main import main
from gpt2spec.plugins import load_backend
from gpt2spec.tasks.checkpoint import load_with_tokenizer
from gpt2spec.tasks.evaluate import Model, evaluate
from gpt2spec.tasks.registry import load_task
from gpt2spec.tasks.report import result_json
from gpt2spec.training import tasks as run_tasks
from gpt2spec.training.loop import train
from gpt2spec.training.plot import plot_runs, scores_of
from gpt2spec.training.run_directory import read_metrics, read_scores
from gpt2spec.training.settings import RunSettings

TEXT = "".join(f"{n} squared is {n * n}; {n} times {n + 1} is {n * (n + 1)}.\n" for n in range(300))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tasks-in-training")
    (folder / "squares.txt").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "squares.txt"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A task of likelihoods, one of windows over a text, and one of continuations."""
    folder = tmp_path_factory.mktemp("samples")
    return {name: str(write_sample(name, folder)) for name in ("lambada", "wikitext-2", "coqa")}


def settings(corpus: Path, **changes: Any) -> RunSettings:
    values: dict[str, Any] = {"steps": 10, "eval_every": 10, "checkpoint_every": 2, "sample_tokens": 0, "lr": 3e-3}
    values |= {"keep": 5, "dropout": 0.1, "batch_size": 2}
    return RunSettings(data=str(corpus), preset="test", context=16, **(values | changes))


def curve(run: Path) -> list[tuple[float, float]]:
    return [(line["loss"], line["grad_norm"]) for line in read_metrics(run)]


def sums(run: Path, step: int) -> str:
    return (checkpoint_folder(run, step) / "SHA256SUMS").read_text()


def test_scores_are_those_of_the_checkpoint_and_the_run_is_the_same(
    corpus: Path, samples: dict[str, str], tmp_path: Path
) -> None:
    """Every fourth update, and at the end."""
    train(settings(corpus, tasks=samples, task_every=4), tmp_path / "run", quiet=True)
    train(settings(corpus), tmp_path / "straight", quiet=True)
    assert curve(tmp_path / "run") == curve(tmp_path / "straight")
    assert sums(tmp_path / "run", 10) == sums(tmp_path / "straight", 10)
    expected = []
    for step in (4, 8, 10):
        model = Model(load_backend("numpy"), *load_with_tokenizer(tmp_path / "run", step), batch_size=2)
        for name, path in samples.items():
            result = evaluate(load_task(name), name, Path(path), model)
            expected.append({"step": step, "limit": None, **result_json(result)})
    assert read_scores(tmp_path / "run") == expected
    assert not (tmp_path / "straight" / "tasks.jsonl").exists()


def test_scores_are_drawn_below_the_losses(corpus: Path, samples: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    train(settings(corpus, tasks={"lambada": samples["lambada"]}, task_every=5), tmp_path / "a", quiet=True)
    train(settings(corpus, tasks=samples), tmp_path / "b", quiet=True)
    scores = scores_of([tmp_path / "a", tmp_path / "b"])
    assert {title: [len(curve) for curve in curves.values()] for title, curves in scores.items()} == {
        title: [2, 1] if title.startswith("lambada: ") else [1] for title in scores
    }
    for record in read_scores(tmp_path / "b"):
        for score in record["scores"]:
            curve = scores[f"{record['task']}: {score['name']}"][1]
            assert curve == [(10, score["value"], score["stderr"] or 0.0)]
    plot_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "loss.svg")
    drawn = (tmp_path / "loss.svg").read_text()
    assert all(f"<!-- {title} -->" in drawn for title in scores)


@pytest.mark.parametrize(
    ("backend", "options", "names"),
    [
        ("torch", {"compile": False}, ("lambada", "coqa")),
        ("jax", {}, ("lambada", "coqa")),
        ("tinygrad", {}, ["lambada"]),
    ],
)
def test_every_backend_scores_the_weights_it_trains(
    backend: str, options: dict[str, Any], names: list[str], corpus: Path, samples: dict[str, str], tmp_path: Path
) -> None:
    """tinygrad, which takes long to compile, scores one task and has no second run."""
    pytest.importorskip(backend)
    chosen = {"backend": backend, "backend_options": options, "steps": 4, "checkpoint_every": 2, "eval_windows": 2}
    tasks = {name: samples[name] for name in names}
    train(settings(corpus, tasks=tasks, task_every=2, task_limit=1, **chosen), tmp_path / "run", quiet=True)
    if backend != "tinygrad":
        train(settings(corpus, **chosen), tmp_path / "straight", quiet=True)
        assert curve(tmp_path / "run") == curve(tmp_path / "straight")
        assert sums(tmp_path / "run", 4) == sums(tmp_path / "straight", 4)
    for step in (2, 4):
        found = {line["task"]: line["scores"] for line in read_scores(tmp_path / "run") if line["step"] == step}
        where = load_backend(backend, **options)
        model = Model(where, *load_with_tokenizer(tmp_path / "run", step), batch_size=2)
        for name, path in tasks.items():
            result = evaluate(load_task(name), name, Path(path), model, limit=1)
            assert found[name] == result_json(result)["scores"]


def test_a_resumed_run_has_the_scores_of_one_that_went_straight_through(
    corpus: Path, samples: dict[str, str], tmp_path: Path
) -> None:
    """Scores of steps that are done again are written once, and what a crash left of a line is let go."""
    chosen = settings(corpus, tasks=samples, task_every=2)
    train(chosen, tmp_path / "straight", quiet=True)
    train(chosen, tmp_path / "run", quiet=True)
    with (tmp_path / "run" / "tasks.jsonl").open("a") as file:
        file.write('{"step": 12, "ta')
    train(chosen, tmp_path / "run", resume=True, at=4, quiet=True)
    assert (tmp_path / "run" / "tasks.jsonl").read_bytes() == (tmp_path / "straight" / "tasks.jsonl").read_bytes()
    assert curve(tmp_path / "run") == curve(tmp_path / "straight")


def test_tasks_may_be_asked_for_later(corpus: Path, samples: dict[str, str], tmp_path: Path) -> None:
    """The last weights of a finished run are scored, and nothing is asked twice."""
    train(settings(corpus), tmp_path / "run", quiet=True)
    chosen = settings(corpus, tasks={"lambada": samples["lambada"]})
    for _ in range(2):
        assert train(chosen, tmp_path / "run", resume=True, quiet=True).finished
    assert [(line["step"], line["task"]) for line in read_scores(tmp_path / "run")] == [(10, "lambada")]


@pytest.mark.parametrize("step", [4, 10])
def test_an_interruption_ends_a_task_after_a_batch_and_a_resumed_run_asks_again(
    step: int, corpus: Path, samples: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(corpus, tasks=samples, task_every=4)
    train(chosen, tmp_path / "straight", quiet=True)
    asked = interrupt(monkeypatch, step, os.getpid())
    outcome = train(chosen, tmp_path / "run", quiet=True)
    assert (outcome.step, outcome.finished, outcome.sample) == (step, False, None)
    assert asked == ["wikitext-2"]  # a batch
    found = [(line["step"], line["task"]) for line in read_scores(tmp_path / "run")]
    assert found[-1] == (step, "lambada")
    monkeypatch.undo()
    assert train(chosen, tmp_path / "run", resume=True, quiet=True).finished
    assert read_scores(tmp_path / "run") == read_scores(tmp_path / "straight")
    assert curve(tmp_path / "run") == curve(tmp_path / "straight")


def interrupt(patch: pytest.MonkeyPatch, step: int, process: int) -> list[str]:
    """SIGTERM during the first batch of wikitext-2 at `step`, in this process; the batches answered since are told."""
    advance, since = run_tasks._Batches.advance, []

    def noting(self: Any, requests: int, tokens: int) -> None:
        if self.step == step and self.task == "wikitext-2":
            os.kill(process, signal.SIGTERM)
            since.append(self.task)
        advance(self, requests, tokens)

    patch.setattr(run_tasks._Batches, "advance", noting)
    return since


# ------------------------------------------------------------------ several processes


@pytest.mark.parametrize("kind", ["data", "sharded"])
def test_processes_score_together(kind: str, corpus: Path, samples: dict[str, str], tmp_path: Path) -> None:
    """One of them is interrupted in a task; both stop, and the run that goes on has every score once."""
    pytest.importorskip("torch")
    chosen = {"backend": "torch", "backend_options": {"compile": False}, "batch_size": 4, "dropout": 0.0}
    tasks = {"tasks": samples, "task_every": 4}
    train(settings(corpus, **chosen, **tasks), tmp_path / "alone", quiet=True)
    divided = settings(corpus, **chosen, **tasks, parallel=kind)
    assert run_ranks(2, interrupted_in_the_second, divided, tmp_path / "run") == [(4, False), (4, False)]
    assert run_ranks(2, resumed, divided, tmp_path / "run") == [(10, True), (10, True)]
    found, expected = (read_scores(tmp_path / name) for name in ("run", "alone"))
    assert [(line["step"], line["task"]) for line in found] == [(line["step"], line["task"]) for line in expected]
    for one, other in zip(found, expected, strict=True):
        for score, same in zip(one["scores"], other["scores"], strict=True):
            assert score["value"] == pytest.approx(same["value"], rel=1e-3), (one["task"], score["name"])
    assert [loss for loss, _ in curve(tmp_path / "run")] == pytest.approx(
        [loss for loss, _ in curve(tmp_path / "alone")], rel=1e-5
    )


def interrupted_in_the_second(settings: RunSettings, out: Path) -> tuple[int, bool]:
    patch = pytest.MonkeyPatch()
    if os.environ["RANK"] == "1":
        interrupt(patch, 4, os.getpid())
    outcome = train(settings, out, quiet=True)
    return outcome.step, outcome.finished


def resumed(settings: RunSettings, out: Path) -> tuple[int, bool]:
    outcome = train(settings, out, resume=True, quiet=True)
    return outcome.step, outcome.finished


# ------------------------------------------------------------------ the command


def test_the_command_shows_every_score_with_its_protocol(
    corpus: Path, samples: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, small = tmp_path / "run", ["--preset", "test", "--context", "16", "--batch-size", "2", "--sample-tokens", "0"]
    tasks = [f"--task=lambada={samples['lambada']}", f"--task=coqa={samples['coqa']}", "--task-every=2"]
    assert main(["train", str(corpus), *small, "--steps", "4", "--out", str(run), *tasks, "--task-limit", "2"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if ": " in line and line.endswith("]")]
    scores = [(line["step"], line["task"], score) for line in read_scores(run) for score in line["scores"]]
    assert len(lines) == len(scores) > 8
    for line, (step, task, score) in zip(lines, scores, strict=True):
        assert line.startswith(f"step {step:>6}  {task}: {score['name']} {score['value']:.4g} ± ")
        assert line.endswith(f"[{score['protocol']}]")
    assert {line["limit"] for line in read_scores(run)} == {2}
    moved = str(write_sample("lambada", tmp_path))
    assert main(["train", "--out", str(run), "--resume", "--steps", "6", "--task", f"lambada={moved}"]) == 0
    assert [(line["task"], line["data"]) for line in read_scores(run) if line["step"] == 6] == [
        ("lambada", moved),
        ("coqa", samples["coqa"]),
    ]


def test_scores_are_shown_by_tensorboard(corpus: Path, samples: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from test_long_runs import events

    tasks = {"lambada": samples["lambada"]}
    train(settings(corpus, tasks=tasks, task_every=4, tensorboard=True), tmp_path / "run", quiet=True)
    found = [each for path in (tmp_path / "run" / "tensorboard").iterdir() for each in events(path)]
    for line in read_scores(tmp_path / "run"):
        for score in line["scores"]:
            expected = (f"lambada/{score['name'].replace(',', '').replace(' ', '_')}", line["step"])
            assert [value for *place, value in found if tuple(place) == expected] == [
                pytest.approx(score["value"], rel=1e-6)
            ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--task lambda=DATA/lambada", r"there is no task 'lambda' \(did you mean 'lambada'\?\)"),
        ("--task lambada=DATA/nothing", "DATA/nothing"),
        ("--task winograd=DATA/lambada", "DATA/lambada"),
        ("--task lambada=DATA/lambada --task-limit 0", "task_limit is at least 1, not 0"),
        ("--task-every 5", "name one with --task TASK=PATH"),
        ("--task lambada=DATA/lambada --task-every -1", "task_every is at least 0, not -1"),
        ("--set tasks.lambada=3", "tasks.lambada is the path of its data, not 3"),
        ("--task lambada=DATA/lambada --set model.vocab_size=300", "the tokenizer of ids is unknown"),
    ],
)
def test_what_is_wrong_with_tasks_is_told_before_a_run_is_made(
    arguments: str,
    message: str,
    corpus: Path,
    samples: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = str(corpus)
    if "vocab_size" in arguments:  # nanoGPT's file of ids, which does not say whose they are
        (tmp_path / "ids").mkdir()
        for name in ("train", "val"):
            np.arange(200, dtype=np.uint16).tofile(tmp_path / "ids" / f"{name}.bin")
        data = str(tmp_path / "ids")
    folder = str(Path(samples["lambada"]).parent)
    words = arguments.replace("DATA", folder).split()
    run = tmp_path / "run"
    assert main(["train", data, "--preset", "test", "--context", "16", "--out", str(run), "--steps", "5", *words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("gpt2spec: error: ")]
    assert len(lines) == 1
    assert re.search(message.replace("DATA", re.escape(folder)), lines[0]), lines
    assert not run.exists()


def test_a_task_without_a_path_is_refused(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", str(corpus), "--task", "lambada"])
    assert "--task takes TASK=PATH, not 'lambada'" in capsys.readouterr().err


def test_tasks_stand_in_a_config_file(corpus: Path, samples: dict[str, str], tmp_path: Path) -> None:
    lines = ['preset = "test"', "context = 16", "steps = 2", "sample_tokens = 0", "task_every = 1", "[tasks]"]
    (tmp_path / "run.toml").write_text("\n".join([*lines, f"lambada = {json.dumps(samples['lambada'])}"]))
    line = ["train", str(corpus), "--config", str(tmp_path / "run.toml"), "--out", str(tmp_path / "run")]
    assert main([*line, "--task", f"coqa={samples['coqa']}", "--quiet"]) == 0
    found = [(line["step"], line["task"]) for line in read_scores(tmp_path / "run")]
    assert found == [(1, "lambada"), (1, "coqa"), (2, "lambada"), (2, "coqa")]
