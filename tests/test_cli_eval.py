"""`gpt2spec eval` prints and writes results, refuses mistakes, and keeps answers after an interruption."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from spelling_models import CONFIG, write_run
from task_samples import write_sample

from gpt2spec.cli.eval_output import published_text
from gpt2spec.cli.main import main
from gpt2spec.parameters import initial_parameters
from gpt2spec.tasks.catalogue import TASKS
from gpt2spec.tasks.evaluate import Model
from gpt2spec.tasks.published import published

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = CONFIG.replace(n_ctx=256)
    params = initial_parameters(config, seed=0)
    return write_run(tmp_path_factory.mktemp("runs") / "model", params, config)


@pytest.fixture
def run(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = main(["eval", *map(str, arguments), "--checkpoint", str(checkpoint), "--cache", str(tmp_path / "cache")])
        return code, *capsys.readouterr()

    return call


def test_every_number_has_its_protocol_error_and_published_score(run: Run, tmp_path: Path) -> None:
    report = tmp_path / "out.json"
    data = [f"--data={task}={write_sample(task, tmp_path)}" for task in ("hellaswag", "storycloze")]
    code, out, err = run("hellaswag", "storycloze", *data, "--json", report)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("hellaswag: 5 examples of ")
    scores = [line for line in lines if line.startswith("  ") and line[2] != " "]
    assert len(scores) == 4
    assert sum(line.startswith("    protocol: ") for line in lines) == 4
    assert "    published: 28.92 (124M), EleutherAI's lm-eval" in lines
    assert lines.count("    published: no published GPT-2 score") == 2
    written = json.loads(report.read_text())
    assert (written["backend"], written["dtype"], written["size"]) == ("numpy", "float32", None)
    first, second = written["results"]
    assert (first["task"], second["task"], second["examples"]) == ("hellaswag", "storycloze", 2)
    for score in (*first["scores"], *second["scores"]):
        assert score["protocol"] and score["stderr"] is not None
        assert any(f"{score['name']}  {score['value']:.4g} ± {score['stderr']:.2g}" in line for line in scores)
    assert second["scores"][0]["published"] == "no published GPT-2 score"
    assert first["scores"][0]["published"]["values"] == {"124M": 28.92}


def test_score_of_a_released_model_is_set_against_its_own() -> None:
    assert published_text(published("wikitext-2"), "355M").startswith("22.76 (355M), Radford et al. 2019, table 3; ")
    assert published_text(published("wikitext-2"), None).startswith("29.41 (124M), 22.76 (355M), 19.93 (774M), 18.34")
    assert published_text(published("coqa"), "124M").startswith("55 (1558M), ")
    assert published_text(None, "124M") == "no published GPT-2 score"


def test_text_can_be_read_with_overlapping_windows(run: Run, tmp_path: Path) -> None:
    folder = write_sample("wikitext-2", tmp_path)
    values = []
    for stride in (256, 32):
        report = tmp_path / f"{stride}.json"
        assert run("wikitext-2", "--data", folder, "--stride", stride, "--json", report)[0] == 0
        (result,) = json.loads(report.read_text())["results"]
        values.append(result["scores"][1])
        assert f"windows of 256 tokens moved on by {stride}" in values[-1]["protocol"]
    assert values[0]["value"] != values[1]["value"]
    assert values[0]["details"]["tokens"] == values[1]["details"]["tokens"]


def test_numbers_that_are_no_json_are_null(run: Run, tmp_path: Path) -> None:
    report = tmp_path / "out.json"
    code, out, _ = run("hellaswag", "--data", write_sample("hellaswag", tmp_path), "--limit", 1, "--json", report)
    assert code == 0
    assert "± no standard error" in out
    assert [score["stderr"] for score in json.loads(report.read_text())["results"][0]["scores"]] == [None, None]


def test_any_checkpoint_can_be_evaluated(run: Run, checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    """Here it is a Hugging Face folder. Answers kept for our own checkpoint with equal weights are used."""
    folder = write_sample("hellaswag", tmp_path)
    out = run("hellaswag", "--data", folder)[1]
    assert main(["convert", str(checkpoint), str(tmp_path / "hf"), "--to", "hf"]) == 0
    capsys.readouterr()
    arguments = ["--checkpoint", str(tmp_path / "hf"), "--cache", str(tmp_path / "cache"), "--data", str(folder)]
    assert main(["eval", "hellaswag", *arguments]) == 0
    again = capsys.readouterr()
    assert again.out == out
    assert again.err == "hellaswag: 4 of 4 answers were kept from before\n"


def test_list_says_where_to_get_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--list"]) == 0
    out = capsys.readouterr().out
    for info in TASKS:
        assert f"{info.name}: {info.summary}\n    data: {info.data[:20]}" in out


def test_interrupted_evaluation_keeps_answers_and_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = write_sample("hellaswag", tmp_path), []
    answer = Model.answer

    def impatient(self: Model, requests: Any) -> Any:
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(len(requests))
        return answer(self, requests)

    monkeypatch.setattr(Model, "answer", impatient)
    code, out, err = run("hellaswag", "--data", folder, "--batch-size", 1)
    assert (code, out) == (130, "")
    assert "3 of 4 answers of hellaswag are kept; the same command goes on from there" in err
    asked.clear()
    code, out, err = run("hellaswag", "--data", folder, "--batch-size", 1)
    assert code == 0
    assert asked == [1]
    assert err == "hellaswag: 3 of 4 answers were kept from before\n"
    assert "accuracy" in out
    asked.clear()
    assert run("hellaswag", "--data", folder, "--no-cache", "--batch-size", 2)[0] == 0
    assert sum(asked) == 4


def test_progress_tells_the_time_that_is_left(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2spec.cli.eval_progress.SECONDS_BETWEEN_LINES", 0.0)
    folder = write_sample("hellaswag", tmp_path)
    err = run("hellaswag", "--data", folder, "--batch-size", 2)[2].splitlines()
    assert len(err) >= 2
    assert all(line.startswith("hellaswag: ") and "/4 requests  " in line and "  ETA " in line for line in err)
    assert run("hellaswag", "--data", folder, "--no-cache", "--quiet")[2] == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "say what to evaluate"),
        ("lambda", "there is no task 'lambda' (did you mean 'lambada'?)"),
        ("lambada", "lambada needs --data PATH"),
        ("lambada --data a --data b", "--data names 2 paths for all tasks"),
        ("lambada coqa --data lambada=a", "coqa needs --data PATH"),
        ("lambada --data no-such-file", "there is no file or folder no-such-file"),
        ("lambada --data . --stride 0", "a stride lies from 1 to the context of 256 tokens, not 0"),
        ("lambada --data . --batch-size 0", "a batch has at least 1 row"),
        ("lambada --data . --limit 0", "a limit is at least 1 example"),
        ("lambada --data . --backend nunpy", "there is no backend 'nunpy'"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: str, message: str, run: Run) -> None:
    code, out, err = run(*arguments.split())
    assert (code, out) == (2, "")
    assert err.startswith("gpt2spec: error: ") and message in err
    assert err.count("\n") == 1
