"""`gpt2spec train` as a user runs it, in a process, on real text, and with mistakes."""

import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2spec.checkpoints.convert import convert
from gpt2spec.checkpoints.native import TrainingState, checkpoint_folder, checkpoint_steps, open_native, save_checkpoint
from gpt2spec.checkpoints.opening import open_checkpoint
from gpt2spec.config import GPT2Config
from gpt2spec.parameters import initial_parameters

TEXT = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, "
    "must be in want of a wife.\n"
)
SMALL = ["--preset", "test", "--batch-size", "2", "--context", "16", "--sample-tokens", "0"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "austen.txt"
    path.write_text(TEXT * 40)
    return path


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {**os.environ, "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture
def command(corpus: Path, environment: dict[str, str], tmp_path: Path) -> Any:
    """Run `gpt2spec train` on the corpus, with small settings and these arguments."""

    def run(*args: object, check: bool = True, small: bool = True, data: bool = True) -> Any:
        line = [sys.executable, "-m", "gpt2spec", "train", *([str(corpus)] if data else []), *(SMALL if small else [])]
        process = subprocess.run(
            [*line, *map(str, args)], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert not check or process.returncode == 0, process.stderr
        return process

    return run


def metrics(run: Path, without: tuple[str, ...] = ("tokens_per_second", "peak_memory")) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in without} for line in lines]


def assert_same_run(one: Path, other: Path) -> None:
    assert metrics(one) == metrics(other)
    steps = checkpoint_steps(one)
    assert steps[-1] == checkpoint_steps(other)[-1]
    folders = [checkpoint_folder(run, steps[-1]) for run in (one, other)]
    assert (folders[0] / "SHA256SUMS").read_text() == (folders[1] / "SHA256SUMS").read_text()


def assert_refused(process: Any, *words: str) -> None:
    """Assert that there is one clear line and exit code 2."""
    assert process.returncode == 2, process.stderr
    lines = [line for line in process.stderr.splitlines() if line.startswith("gpt2spec: error: ")]
    assert len(lines) == 1 and "Traceback" not in process.stderr, process.stderr
    for word in words:
        assert word in lines[0]


def test_the_run_directory_holds_what_it_promises(command: Any, tmp_path: Path) -> None:
    command("--steps", 6, "--eval-every", 3, "--out", tmp_path / "run")
    run = tmp_path / "run"
    promised = {"config.toml", "data.json", "metrics.jsonl", "checkpoints", ".lock"}
    assert {path.name for path in run.iterdir()} == promised
    lines = metrics(run, without=())
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all({"step", "loss", "lr", "grad_norm", "tokens_per_second"} <= set(line) for line in lines)
    assert [line["step"] for line in lines if "val_loss" in line] == [3, 6]
    assert lines[0]["loss"] == pytest.approx(math.log(257), abs=0.1)  # a fresh model knows nothing
    assert lines[-1]["lr"] == 0.0


def test_training_learns_more_than_frequencies(command: Any, tmp_path: Path) -> None:
    process = command("--steps", 150, "--batch-size", 8, "--out", tmp_path / "run", "--sample-tokens", 20)
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    assert metrics(tmp_path / "run")[-1]["val_loss"] < data["unigram_entropy"] - 0.5
    assert "A sample, after" in process.stdout
    assert "unigram entropy of austen" in process.stdout


def test_the_same_seed_gives_the_same_run(command: Any, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        command("--steps", 4, "--seed", seed, "--dropout", 0.1, "--out", tmp_path / name)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert metrics(tmp_path / "a") != metrics(tmp_path / "c")


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_killed_and_resumed_equals_straight_through(
    command: Any, corpus: Path, environment: dict[str, str], tmp_path: Path, dropout: float
) -> None:
    options = ["--checkpoint-every", "20", "--eval-every", "10", "--dropout", str(dropout)]
    command("--steps", 40, *options, "--out", tmp_path / "straight")
    broken = tmp_path / "broken"
    line = [
        sys.executable,
        "-m",
        "gpt2spec",
        "train",
        str(corpus),
        *SMALL,
        *options,
        "--steps",
        "40",
        "--out",
        str(broken),
    ]
    with subprocess.Popen(line, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: checkpoint_steps(broken) != [] or process.poll() == 0, process)
        process.send_signal(signal.SIGKILL)
    shutil.rmtree(checkpoint_folder(broken, 40), ignore_errors=True)  # if it was faster than the signal
    assert checkpoint_steps(broken) == [20]
    command("--resume", "--out", broken, small=False, data=False)
    assert_same_run(tmp_path / "straight", broken)


def test_ctrl_c_saves_and_says_how_to_go_on(
    command: Any, corpus: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    run = tmp_path / "A Run"
    options = [*SMALL, "--steps", "100000", "--warmup", "2", "--out", str(run)]
    line = [sys.executable, "-m", "gpt2spec", "train", str(corpus), *options]
    with subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: (run / "metrics.jsonl").exists() and len(metrics(run)) > 3, process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    step = checkpoint_steps(run)[-1]
    assert f"step {step} is saved" in errors and f"gpt2spec train --out '{run}' --resume" in errors
    assert "Traceback" not in errors
    assert metrics(run)[-1]["step"] == step
    command("--resume", "--steps", step + 3, "--out", run, small=False, data=False)
    assert [line["step"] for line in metrics(run)] == list(range(1, step + 4))


def test_a_damaged_checkpoint_is_refused_and_the_one_before_offered(command: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command("--steps", 6, "--checkpoint-every", 2, "--out", run)
    shutil.copytree(run, tmp_path / "whole")
    path = checkpoint_folder(run, 6) / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    process = command("--resume", "--steps", 8, "--out", run, small=False, data=False, check=False)
    assert_refused(process, "optimizer.safetensors does not match its checksum", f"--out {run} --resume 4")
    command("--resume", 4, "--out", run, small=False, data=False)
    assert_same_run(run, tmp_path / "whole")


def test_old_checkpoints_make_room(command: Any, tmp_path: Path) -> None:
    command("--steps", 10, "--checkpoint-every", 2, "--keep", 2, "--out", tmp_path / "run")
    assert checkpoint_steps(tmp_path / "run") == [8, 10]


def test_resuming_refuses_what_would_be_another_run(command: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command("--steps", 2, "--out", run)
    again = {"small": False, "data": False, "check": False}
    assert_refused(command("--resume", "--lr", 0.5, "--out", run, **again), "cannot change lr", "0.0125")
    other = tmp_path / "other.txt"
    other.write_text(TEXT[::-1] * 40)
    assert_refused(command(other, "--resume", "--out", run, **again), "a resumed run needs the same data")
    assert_refused(command("--resume", **again), "--resume needs --out")
    assert_refused(command("--resume", "--out", tmp_path / "absent", **again), "there is no run")
    assert_refused(command("--resume", 7, "--out", run, **again), "no checkpoint of step 7; it has 2")
    assert_refused(command("--steps", 2, "--out", run, check=False), "already holds a run", "--resume")


def test_a_run_stopped_before_its_first_checkpoint_begins_again(command: Any, tmp_path: Path) -> None:
    command("--steps", 3, "--out", tmp_path / "straight")
    shutil.copytree(tmp_path / "straight", tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken" / "checkpoints")
    process = command("--resume", "--out", tmp_path / "broken", small=False, data=False)
    assert "no checkpoint yet" in process.stderr
    assert_same_run(tmp_path / "straight", tmp_path / "broken")


def test_a_preset_or_recipe_replaces_what_a_config_says_of_it(command: Any, tmp_path: Path) -> None:
    command("--steps", 1, "--set", "optimizer.clip=0.5", "--out", tmp_path / "a")
    config = ("--config", tmp_path / "a" / "config.toml")
    command(*config, "--preset", "nano", "--out", tmp_path / "b", small=False)
    assert open_native(checkpoint_folder(tmp_path / "b", 1)).config.n_embd == 64
    command(*config, "--recipe", "nanogpt", "--out", tmp_path / "c", small=False)
    settings = (tmp_path / "c" / "config.toml").read_text()
    assert "clip = 1.0" in settings and 'decay = "matrices"' in settings
    command(*config, "--out", tmp_path / "d", small=False)
    assert "clip = 0.5" in (tmp_path / "d" / "config.toml").read_text()


def test_damaged_data_is_refused(command: Any, corpus: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "gpt2spec", "data", "prepare", str(corpus), "--tokenizer", "bytes", "--out"]
    subprocess.run([*line, str(tmp_path / "data")], check=True, capture_output=True)
    shard = tmp_path / "data" / "train_000000.bin"
    shard.write_bytes(shard.read_bytes()[:-2] + b"a\0")
    process = command(tmp_path / "data", "--steps", 1, "--out", tmp_path / "run", check=False, data=False)
    assert_refused(process, "train_000000.bin is damaged")


def test_resuming_a_finished_run_says_so(command: Any, tmp_path: Path) -> None:
    command("--steps", 3, "--out", tmp_path / "run")
    again = {"small": False, "data": False, "check": False}
    process = command("--resume", "--out", tmp_path / "run", **again)
    assert process.returncode == 0 and "had done its 3 steps already" in process.stdout
    assert_refused(command("--resume", "--steps", 2, "--out", tmp_path / "run", **again), "at step 3 already")


def test_resumed_runs_may_move_to_another_mode(command: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command("--steps", 2, "--out", run)
    command("--resume", "--steps", 3, "--set", "backend_options.mode=reference", "--out", run, small=False, data=False)
    assert metrics(run)[-1]["step"] == 3


def test_a_full_disk_is_one_line_and_loses_nothing(corpus: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """The limit on file sizes stands in for the disk: the second checkpoint no longer fits."""
    run = tmp_path / "run"
    line = [sys.executable, "-m", "gpt2spec", "train", str(corpus), *SMALL, "--out", str(run)]
    subprocess.run([*line, "--steps", "2"], env=environment, check=True, capture_output=True)
    limited = f"ulimit -f 64; exec {sys.executable} -m gpt2spec train --out {run} --resume --steps 4"
    process = subprocess.run(["bash", "-c", limited], env=environment, capture_output=True, text=True, check=False)
    assert_refused(process, "cannot write", "step 2 is saved", "--resume")
    assert checkpoint_steps(run) == [2]
    open_native(checkpoint_folder(run, 2)).training()
    subprocess.run([*line[:4], "--out", str(run), "--resume", "--steps", "4"], env=environment, check=True)
    assert [line["step"] for line in metrics(run)] == [1, 2, 3, 4]


def test_a_full_disk_under_the_metrics_is_one_line_too(
    corpus: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    line = [sys.executable, "-m", "gpt2spec", "train", str(corpus), *SMALL, "--out", str(run)]
    limited = f"ulimit -f 4; exec {shlex.join([*line, '--steps', '100'])}"
    subprocess.run([*line, "--steps", "1"], env=environment, check=True, capture_output=True)  # fills the cache
    shutil.rmtree(run)
    process = subprocess.run(["bash", "-c", limited], env=environment, capture_output=True, text=True, check=False)
    assert_refused(process, "cannot write", "metrics.jsonl", "nothing was saved before")


def test_a_run_belongs_to_one_process_and_may_be_plotted_meanwhile(
    command: Any, corpus: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = [*SMALL, "--steps", "100000", "--checkpoint-every", "1", "--out", str(run)]
    line = [sys.executable, "-m", "gpt2spec", "train", str(corpus), *options]
    with subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: len(checkpoint_steps(run)) > 1, process)
        plot = [sys.executable, "-m", "gpt2spec", "plot", str(run), "--out", str(tmp_path / "loss.png")]
        for _ in range(3):
            subprocess.run(plot, env=environment, check=True, capture_output=True)
        other = command("--resume", "--out", run, small=False, data=False, check=False)
        assert_refused(other, "another process is training")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors


def test_a_resume_that_fails_removes_no_checkpoint(command: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command("--steps", 6, "--checkpoint-every", 2, "--out", run)
    (run / "metrics.jsonl").unlink()
    process = command("--resume", 4, "--out", run, small=False, data=False, check=False)
    assert_refused(process, "does not hold the steps 1 to 4")
    assert checkpoint_steps(run) == [2, 4, 6]


def test_a_run_is_resumed_with_the_config_it_was_made_with(command: Any, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text("steps = 3\n[model]\nn_layer = 1\n[optimizer]\nclip = 1.0\n")
    command("--config", config, "--out", tmp_path / "run")
    command("--config", config, "--steps", 4, "--resume", "--out", tmp_path / "run", small=False, data=False)
    config.write_text("steps = 4\n[model]\nn_layer = 2\n")
    again = {"small": False, "data": False, "check": False}
    assert_refused(command("--config", config, "--resume", "--out", tmp_path / "run", **again), "cannot change model")


def test_a_model_of_one_position_trains(command: Any, tmp_path: Path) -> None:
    options = ("--preset", "test", "--set", "model.n_ctx=1", "--steps", 1, "--out", tmp_path / "run")
    command(*options, small=False)


def test_wrong_input_is_one_line_and_exit_code_2(command: Any, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("Too short.")
    (tmp_path / "folder").mkdir()
    (tmp_path / "run.toml").write_text("stepz = 3\n")
    (tmp_path / "file").write_text("")
    out = ("--out", tmp_path / "run")

    def refused(*args: object, words: tuple[str, ...], data: bool = False) -> None:
        assert_refused(command(*args, *out, check=False, small=False, data=data), *words)

    refused(tmp_path / "empty.txt", words=("empty.txt",))
    refused(tmp_path / "short.txt", "--preset", "test", words=("context 64 takes 65",))
    refused(tmp_path / "absent.txt", words=("absent.txt",))
    refused(tmp_path / "folder", words=("neither token files nor text",))
    refused("--config", tmp_path / "run.toml", words=("'stepz' (did you mean 'steps'?)",), data=True)
    refused("--preset", "test", "--context", 65, words=("n_ctx = 64, not 65",), data=True)
    refused("--set", "model.vocab_size=100", words=("ids up to 256", "vocab_size is 100"), data=True)
    prepared = tmp_path / "prepared"
    line = [sys.executable, "-m", "gpt2spec", "data", "prepare", str(corpus), "--tokenizer", "bytes", "--out"]
    subprocess.run([*line, str(prepared)], check=True, capture_output=True)
    refused(prepared, "--tokenizer", "gpt2", words=("prepared with bytes-",))
    refused("--preset", "gpt3", words=("there is no preset 'gpt3'",), data=True)
    refused("--backend", "numpyy", words=("did you mean 'numpy'?",), data=True)
    refused("--device", "cuda", words=("'cpu', not on 'cuda'",), data=True)
    refused("--dtype", "float16", words=("float32, float64",), data=True)
    refused("--steps", 5, "--warmup", 6, words=("warm-up has from 0 to 5",), data=True)
    assert not (tmp_path / "run").exists()
    process = command("--steps", 1, "--out", tmp_path / "file" / "run", check=False)
    assert_refused(process, "cannot write", "is a file, not a folder")


def test_divergence_stops_with_a_message(command: Any, tmp_path: Path) -> None:
    process = command("--steps", 200, "--lr", 1e30, "--warmup", 0, "--out", tmp_path / "run", check=False)
    assert_refused(process, "diverged", "--lr")
    process = command("--steps", 2, "--lr", 1e30, "--eval-every", 1, "--out", tmp_path / "short", check=False)
    assert_refused(process, "diverged")
    assert checkpoint_steps(tmp_path / "short") == []


def test_a_vocabulary_follows_the_data(command: Any, corpus: Path, tmp_path: Path) -> None:
    command("--steps", 1, "--tokenizer", "gpt2", "--out", tmp_path / "run")
    saved = open_native(checkpoint_folder(tmp_path / "run", 1))
    config, params = saved.config, saved.params()
    assert config.vocab_size == 50257 == len(params["wte.weight"])


FINE_TUNING = ["--batch-size", "2", "--context", "16", "--sample-tokens", "0", "--steps", "2"]


def test_a_run_begins_with_the_weights_of_any_checkpoint(command: Any, tmp_path: Path) -> None:
    config = GPT2Config(n_layer=1, n_head=2, n_embd=32, n_ctx=64, vocab_size=257, dropout=0.0)
    params = initial_parameters(config, seed=5)
    params["ln_f.bias"] += 0.25
    run = save_checkpoint(tmp_path / "first", config, params, TrainingState(params, params, {"step": 1}))
    convert(open_checkpoint(run), tmp_path / "gpt2.bin", "llmc")
    for name, source in (("a", tmp_path / "first"), ("b", tmp_path / "gpt2.bin")):
        command("--init-from", source, *FINE_TUNING, "--lr", "1e-30", "--out", tmp_path / name, small=False)
    for name in ("a", "b"):
        saved = open_native(checkpoint_folder(tmp_path / name, 2))
        found, loaded = saved.config, saved.params()
        assert found == config
        assert all(np.abs(loaded[each] - params[each]).max() < 1e-25 for each in params)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    first = metrics(tmp_path / "a")[0]
    command("--init-from", tmp_path / "first", *FINE_TUNING, "--steps", "4", "--out", tmp_path / "c", small=False)
    assert metrics(tmp_path / "c")[0]["loss"] == first["loss"]
    command("--out", tmp_path / "c", "--resume", "--steps", "5", small=False, data=False)


def test_what_does_not_go_with_given_weights_is_refused(command: Any, tmp_path: Path) -> None:
    config = GPT2Config(n_layer=1, n_head=2, n_embd=32, n_ctx=64, vocab_size=257)
    params = initial_parameters(config, seed=5)
    state = TrainingState(params, params, {"step": 1, "tokenizer": "gpt2-0123456789abcdef"})
    save_checkpoint(tmp_path / "first", config, params, state)
    for arguments, message in (
        (["--set", "model.n_layer=2"], "model.n_layer is 2, but 1 in"),
        (["--preset", "test"], "--init-from brings its own model: leave out --preset"),
        ([], "the tokenizer 'gpt2-0123456789abcdef' is none of gpt2, bytes"),
        (["--tokenizer", "bytes"], "in gpt2-0123456789abcdef"),
    ):
        ran = command("--init-from", tmp_path / "first", *FINE_TUNING, *arguments, check=False, small=False)
        assert ran.returncode == 2 and message in ran.stderr, ran.stderr
    ran = command("--init-from", tmp_path / "absent", *FINE_TUNING, check=False, small=False)
    assert ran.returncode == 2 and "there is no run directory or checkpoint" in ran.stderr


def test_generate_reads_a_run(command: Any, environment: dict[str, str], tmp_path: Path) -> None:
    command("--steps", 2, "--out", tmp_path / "run")
    line = [sys.executable, "-m", "gpt2spec", "generate", "--checkpoint", str(tmp_path / "run")]
    options = ["--prompt", "It is", "--max-new-tokens", "8", "--seed", "3", "--top-k", "5", "--top-p", "0.9"]
    one, two = (
        subprocess.run([*line, *options], env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert one == two and one.startswith("It is") and len(one) > len("It is\n")
    subprocess.run([*line, "--prompt", "The"], env=environment, check=True, capture_output=True)
    process = subprocess.run(
        [*line, "--max-new-tokens", "64"], env=environment, capture_output=True, text=True, check=False
    )
    assert_refused(process, "n_ctx = 64")


def test_plot_draws_runs(command: Any, environment: dict[str, str], tmp_path: Path) -> None:
    for name in ("a", "b"):
        command("--steps", 4, "--eval-every", 2, "--out", tmp_path / name)
    line = [sys.executable, "-m", "gpt2spec", "plot", str(tmp_path / "a"), str(tmp_path / "b"), "--out"]
    for kind, magic in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        out = tmp_path / f"loss.{kind}"
        subprocess.run([*line, str(out)], env=environment, check=True)
        assert out.read_bytes().startswith(magic)
    process = subprocess.run([*line, "loss.txt"], env=environment, capture_output=True, text=True, check=False)
    assert_refused(process, ".png")


def test_a_torn_last_line_of_metrics_is_done_again(command: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command("--steps", 3, "--out", run)
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 4, "lo')
    command("--resume", "--steps", 5, "--out", run, small=False, data=False)
    assert [line["step"] for line in metrics(run)] == [1, 2, 3, 4, 5]


def test_moments_are_saved_as_they_are(command: Any, tmp_path: Path) -> None:
    command("--steps", 2, "--out", tmp_path / "run")
    training = open_native(checkpoint_folder(tmp_path / "run", 2)).training()
    assert all((x >= 0).all() for x in training.v.values())
    assert any(np.any(x != 0) for x in training.m.values())


def wait_for(condition: Any, process: Any) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() in (None, 0), "the run failed before it was to be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.01)
