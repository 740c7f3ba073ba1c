"""A run on every backend has the same curve, and the same end after an interruption."""

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2spec.training.loop import train
from gpt2spec.training.settings import RunSettings

# PyTorch runs eagerly here: its compiled steps are compared in test_backends.py, and take a minute to compile.
OPTIONS: dict[str, dict[str, Any]] = {"torch": {"compile": False}}
BACKENDS = ("torch", "jax", "tinygrad")
TEXT = "".join(f"{n} squared is {n * n}; {n} times {n + 1} is {n * (n + 1)}.\n" for n in range(600))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("same-run")
    (folder / "squares.txt").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "squares.txt"


def settings(backend: str, corpus: Path, **changes: Any) -> RunSettings:
    values = {"steps": 50, "eval_every": 50, "checkpoint_every": 100, "sample_tokens": 0, "lr": 3e-3}
    return RunSettings(
        data=str(corpus),
        preset="test",
        context=32,
        batch_size=4,
        backend=backend,
        backend_options=OPTIONS.get(backend, {}),
        **(values | changes),
    )


def losses(run: Path) -> np.ndarray:
    return np.array([json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()])


def require(backend: str) -> None:
    if importlib.util.find_spec(backend) is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{backend} must be installed here")
        pytest.skip(f"{backend} is not installed")


@pytest.fixture(scope="module")
def numpy_losses(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    run = tmp_path_factory.mktemp("numpy") / "run"
    train(settings("numpy", corpus), run, quiet=True)
    return losses(run)


@pytest.mark.parametrize("backend", BACKENDS)
def test_fifty_steps_give_the_same_curve(backend: str, corpus: Path, numpy_losses: np.ndarray, tmp_path: Path) -> None:
    require(backend)
    train(settings(backend, corpus), tmp_path / "run", quiet=True)
    assert numpy_losses[-1] < 0.7 * numpy_losses[0]  # there is something to agree on
    np.testing.assert_allclose(losses(tmp_path / "run"), numpy_losses, rtol=1e-4)


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_resumed_run_repeats_its_dropout_and_ends_the_same(backend: str, corpus: Path, tmp_path: Path) -> None:
    """tinygrad is left out for the minutes it takes to compile twice; its dropout is held in test_backends.py."""
    require(backend)
    whole = settings(backend, corpus, steps=8, eval_every=8, checkpoint_every=4, dropout=0.2)
    train(whole, tmp_path / "straight", quiet=True)
    train(whole, tmp_path / "broken", quiet=True)
    (tmp_path / "broken" / "checkpoints" / "step-00000008" / "model.safetensors").unlink()
    train(whole, tmp_path / "broken", resume=True, at=4, quiet=True)
    sums = [tmp_path / name / "checkpoints" / "step-00000008" / "SHA256SUMS" for name in ("straight", "broken")]
    assert sums[0].read_text() == sums[1].read_text()
    assert np.array_equal(losses(tmp_path / "straight"), losses(tmp_path / "broken"))
