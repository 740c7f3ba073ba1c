"""Runs of days have checkpoints that rotate, notice spikes, and end when nothing improves."""

import json
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpt2spec_numpy.backend import NumpyBackend
from hypothesis import given
from hypothesis import strategies as st

from gpt2spec.checkpoints.native import checkpoint_folder, checkpoint_steps, open_native
from gpt2spec.config import preset
from gpt2spec.costs import training_flops_per_token
from gpt2spec.errors import ConfigError
from gpt2spec.training import checkpoints, validation
from gpt2spec.training.background import Background
from gpt2spec.training.divergence import DivergedError
from gpt2spec.training.history import History
from gpt2spec.training.loop import train
from gpt2spec.training.plot import plot_runs
from gpt2spec.training.retention import best_step, kept
from gpt2spec.training.run_directory import read_metrics
from gpt2spec.training.settings import RunSettings
from gpt2spec.training.spikes import WINDOW, SpikeDetector
from gpt2spec.training.updates import Updates

TEXT = "".join(f"{n} squared is {n * n}; {n} times {n + 1} is {n * (n + 1)}.\n" for n in range(300))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("long-runs")
    (folder / "squares.txt").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "squares.txt"


def settings(corpus: Path, **changes: Any) -> RunSettings:
    values: dict[str, Any] = {"steps": 12, "eval_every": 4, "checkpoint_every": 4, "sample_tokens": 0, "lr": 3e-3}
    return RunSettings(data=str(corpus), preset="test", context=16, batch_size=2, **(values | changes))


# ------------------------------------------------------------------ checkpoints


@given(st.sets(st.integers(1, 60)), st.integers(2, 5), st.integers(0, 10), st.none() | st.integers(1, 60))
def test_the_last_the_round_and_the_best_are_kept(steps: set[int], last: int, every: int, best: int | None) -> None:
    stays = kept(steps, last, every, best)
    assert stays <= steps
    for step in steps:
        recent = sum(later > step for later in steps) < last
        assert (step in stays) == (recent or step == best or (every > 0 and step % every == 0))


def test_the_best_is_the_first_of_the_lowest() -> None:
    assert best_step({}) is None
    assert best_step({4: 2.0, 8: 1.0, 12: 1.0}) == 8


def test_checkpoints_rotate(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The validation loss is lowest at step 5, which is saved for that, and kept."""
    monkeypatch.setattr(validation, "validation_loss", lambda *args: next(losses))
    losses = iter([3.0, 2.0, 2.5, 2.6])
    chosen = settings(corpus, steps=20, eval_every=5, checkpoint_every=2, keep=2, keep_every=8, keep_best=True)
    train(chosen, tmp_path / "run", quiet=True)
    assert checkpoint_steps(tmp_path / "run") == [8, 10, 16, 18, 20]
    assert 5 not in checkpoint_steps(tmp_path / "run")  # the best once, until step 10


def test_a_step_goes_on_while_a_checkpoint_is_written(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first write waits for the step after it, which would never come if the steps waited for the write."""
    stepped, save = threading.Event(), checkpoints.save_checkpoint
    took_step, run = [], Updates.run

    def slow(*args: Any) -> Path:
        took_step.append(stepped.wait(30))
        return save(*args)

    def step(self: Updates, state: Any, update: int) -> Any:
        if update == 5:
            stepped.set()
        return run(self, state, update)

    monkeypatch.setattr(checkpoints, "save_checkpoint", slow)
    monkeypatch.setattr(Updates, "run", step)
    train(settings(corpus), tmp_path / "run", quiet=True)
    assert took_step == [True, True, True]
    monkeypatch.undo()
    train(settings(corpus), tmp_path / "straight", quiet=True)
    for number in (4, 8, 12):
        sums = [(checkpoint_folder(tmp_path / name, number) / "SHA256SUMS").read_text() for name in ("run", "straight")]
        assert sums[0] == sums[1]  # what was copied did not change under the writer


def test_work_in_the_background_is_told_of_when_it_failed() -> None:
    background = Background()

    def fail() -> None:
        raise OSError("no")

    background.start(fail)
    with pytest.raises(OSError, match="no"):
        background.wait()
    background.wait()  # told once


# ------------------------------------------------------------------ spikes


def test_a_value_far_above_the_last_ones_departs() -> None:
    detector = SpikeDetector(4.0)
    r = np.random.default_rng(0)
    for x in r.normal(3.0, 0.1, WINDOW):
        assert not detector.departs(1e9)  # nothing is judged before the window is full
        detector.add(x)
    assert not detector.departs(3.3) and not detector.departs(0.0)
    assert detector.departs(3.6)
    assert detector.departs(math.nan) and SpikeDetector(0.0).departs(math.inf)
    assert not SpikeDetector(0.0, [3.0] * WINDOW).departs(1e9)


def poisoned(monkeypatch: pytest.MonkeyPatch, *updates: int) -> None:
    """Multiply the gradient by a million in some updates, numbered within this process."""
    count, value_and_grad = [0], NumpyBackend.value_and_grad

    def differentiate(self: Any, function: Any) -> Any:
        evaluate = value_and_grad(self, function)

        def run(*args: Any) -> Any:
            value, gradients = evaluate(*args)
            count[0] += 1
            if count[0] in updates:
                for leaf in gradients["wpe"].values():
                    leaf *= np.float32(1e6)
            return value, gradients

        return run

    monkeypatch.setattr(NumpyBackend, "value_and_grad", differentiate)


LONG: dict[str, Any] = {"steps": 140, "eval_every": 200, "checkpoint_every": 70, "spike": 8.0}


def test_a_spike_stops_the_run_and_says_what_is_saved(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch, 135)
    with pytest.raises(DivergedError, match=r"grad_norm is .* at step 135, more than 8 .*step 70 is saved.*on-spike"):
        train(settings(corpus, **LONG), tmp_path / "run", quiet=True)
    assert checkpoint_steps(tmp_path / "run") == [70]


def test_a_skipped_update_leaves_the_weights(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch, 135)
    changes = {**LONG, "on_spike": "skip", "checkpoint_every": 1, "keep": 10}
    train(settings(corpus, **changes), tmp_path / "run", quiet=True)
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines if line.get("skipped")] == [135]
    before, after = (open_native(checkpoint_folder(tmp_path / "run", step)).training() for step in (134, 135))
    assert all(np.array_equal(before.m[name], after.m[name]) for name in before.m)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_losses_that_are_no_numbers_are_skipped_a_few_times_only(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = settings(corpus, on_spike="skip", lr=1e30, warmup=0, steps=30, eval_every=30, checkpoint_every=30)
    with pytest.raises(DivergedError, match=r"11 updates in a row were skipped \(nothing was saved"):
        train(poison, tmp_path / "run", quiet=True)


def test_a_skipped_step_without_a_number_is_logged_and_drawn(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text("")
    (run / "data.json").write_text(json.dumps({"name": "a", "fingerprint": "b", "unigram_entropy": 3.0}))
    lines = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": None, "skipped": True}, {"step": 3, "loss": 2.0}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pytest.importorskip("matplotlib")
    plot_runs([run], tmp_path / "loss.png")


# ------------------------------------------------------------------ early stopping


def test_patience_ends_a_run_and_survives_a_resume(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 2.0, 2.5, 2.4, 9.9])
    monkeypatch.setattr(validation, "validation_loss", lambda *args: next(losses))
    chosen = settings(corpus, steps=40, patience=2)
    first = RunSettings(**{**chosen.__dict__, "steps": 12})
    train(first, tmp_path / "run", quiet=True)  # one validation after the best
    outcome = train(chosen, tmp_path / "run", resume=True, quiet=True)
    assert (outcome.step, outcome.finished, outcome.stopped_early, outcome.best) == (16, True, True, 8)
    assert checkpoint_steps(tmp_path / "run")[-1] == 16
    again = train(chosen, tmp_path / "run", resume=True, quiet=True)
    assert (again.step, again.stopped_early) == (16, True)
    assert next(losses) == 9.9


def test_history_is_what_the_metrics_say() -> None:
    lines = [{"step": n, "loss": 3.0 + 0.01 * (n % 5), "grad_norm": 1.0} for n in range(1, 200)]
    lines[99] |= {"loss": None, "skipped": True}
    lines[-1] |= {"skipped": True, "val_loss": 2.0}
    history = History(lines, spike=6.0)
    assert history.skips == 1 and history.best() == 199
    assert history.spike(9.0, 1.0) == "loss"
    assert history.spike(3.0, math.inf) == "grad_norm"


# ------------------------------------------------------------------ what is written beside


def test_samples_of_steps_that_are_done_again_are_written_once(corpus: Path, tmp_path: Path) -> None:
    run, changes = tmp_path / "run", {"sample_tokens": 5, "sample_every": 2, "checkpoint_every": 4}
    train(settings(corpus, steps=8, **changes), run, quiet=True)
    before = (run / "samples.jsonl").read_bytes()
    (run / "samples.jsonl").write_bytes(before + b'{"step"')  # as a crash leaves it
    train(settings(corpus, steps=8, **changes), run, resume=True, at=4, quiet=True)
    assert (run / "samples.jsonl").read_bytes() == before
    assert [json.loads(line)["step"] for line in before.splitlines()] == [2, 4, 6, 8]


def test_samples_use_and_events_are_written(corpus: Path, tmp_path: Path) -> None:
    """TensorBoard's files hold the metrics' numbers, once for each step, also after a resume."""
    pytest.importorskip("tensorboardX")
    changes = {"sample_tokens": 5, "sample_every": 4, "tensorboard": True, "device_flops": 1e12}
    train(settings(corpus, steps=6, **changes), tmp_path / "run", quiet=True)
    train(settings(corpus, steps=8, **changes), tmp_path / "run", resume=True, quiet=True)
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [(line["step"], len(line["text"]) > 0) for line in samples] == [(4, True), (8, True)]
    lines = read_metrics(tmp_path / "run")
    last = lines[-1]
    flops = training_flops_per_token(preset("test").replace(vocab_size=257), 16)
    assert last["mfu"] == pytest.approx(flops * last["tokens_per_second"] / 1e12, abs=1e-4)
    assert last["peak_memory"] > 10_000_000
    found = [each for path in sorted((tmp_path / "run" / "tensorboard").iterdir()) for each in events(path)]
    losses = sorted((step, value) for name, step, value in found if name == "loss")
    assert losses == [(line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in lines]


def events(path: Path) -> list[tuple[str, int, float]]:
    """(name, step, value) of a file of events, whose records are a length, its checksum, bytes and their checksum."""
    from tensorboardX.proto.event_pb2 import Event

    data, found = path.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
        found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
    return found


@pytest.mark.parametrize(
    ("backend", "options", "trace"),
    [
        ("numpy", {}, "calls.prof"),
        ("torch", {"compile": False}, "trace.json"),
        ("jax", {}, "plugins/profile/*/*.trace.json.gz"),
    ],
)
def test_a_trace_is_left_by_the_frameworks_profiler(
    corpus: Path, tmp_path: Path, backend: str, options: dict[str, Any], trace: str
) -> None:
    pytest.importorskip(backend)
    chosen = settings(corpus, steps=6, eval_every=6, backend=backend, backend_options=options)
    train(chosen, tmp_path / "run", quiet=True, profile=2)
    assert len(list((tmp_path / "run" / "profile").glob(trace))) == 1
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        train(chosen, tmp_path / "other", quiet=True, profile=0)


def test_the_settings_of_long_runs_are_checked() -> None:
    for name, value in (("on_spike", "ignore"), ("device_flops", 0.0), ("patience", -1), ("keep_best", 1)):
        with pytest.raises(ConfigError, match=name):
            RunSettings(**{name: value})  # type: ignore[arg-type]
