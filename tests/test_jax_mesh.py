"""One run on several JAX devices, and in several processes: the curve of one device, and each device's part."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpt2spec_jax.parallel import ParallelJaxBackend
from task_samples import write_sample

from gpt2spec.plugins import load_backend
from gpt2spec.tasks.checkpoint import load_with_tokenizer
from gpt2spec.tasks.evaluate import Model, evaluate
from gpt2spec.tasks.registry import load_task
from gpt2spec.training.loop import train
from gpt2spec.training.run_directory import read_scores
from gpt2spec.training.settings import RunSettings

pytest.importorskip("jax")

ROOT = Path(__file__).parent
TEXT = "".join(f"{n} squared is {n * n}; {n} times {n + 1} is {n * (n + 1)}.\n" for n in range(600))
D = 32
"""Width of the preset `test`; its MLP has 4 D units, in two layers."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("mesh")
    (folder / "squares.txt").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "squares.txt"


def settings(corpus: Path, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"steps": 30, "eval_every": 15, "checkpoint_every": 15, "sample_tokens": 0, "lr": 1e-3}
    return {
        "data": str(corpus),
        "preset": "test",
        "context": 16,
        "batch_size": 8,
        "backend": "jax",
        **values,
        **changes,
    }


def losses(run: Path, steps: int = 30) -> np.ndarray:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, steps + 1))  # written once
    return np.array([[line["loss"], line["grad_norm"]] for line in lines])


def start(folder: Path, runs: list[Any], devices: int) -> "subprocess.Popen[str]":
    """A process with so many devices that does the runs."""
    path = folder / f"runs-{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(runs))
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    environment |= {"JAX_PLATFORMS": "cpu"}
    line = [sys.executable, str(ROOT / "mesh_runs.py"), str(path)]
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(process: "subprocess.Popen[str]") -> list[Any]:
    out, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def alone(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    run = tmp_path_factory.mktemp("alone") / "run"
    train(RunSettings(**settings(corpus)), run, quiet=True)
    return losses(run)


def test_devices_have_the_curve_of_one(corpus: Path, alone: np.ndarray, tmp_path: Path) -> None:
    """Two and four devices, every layout, accumulation, and a checkpoint that another layout goes on from."""
    runs = {
        "data": {"parallel": "data", "backend_options": {"devices": 2}},
        "sharded": {"parallel": "sharded", "batch_size": 4, "accumulate": 2},
        "both": {"parallel": "sharded", "backend_options": {"model_devices": 2, "remat": True}},
    }
    todo = [[str(tmp_path / name), settings(corpus, **changes), False] for name, changes in runs.items()]
    todo.append([str(tmp_path / "data"), settings(corpus, parallel="tensor", steps=31), True])
    todo.append([str(tmp_path / "odd"), settings(corpus, parallel="data", batch_size=6), False])
    data, sharded, both, tensor, odd = result(start(tmp_path, todo, 4))
    assert data == [[2, D, 4 * D]] * 2
    assert sharded == tensor == [[2, D, D]] * 4
    assert both == [[2, D // 2, 2 * D]] * 4
    assert "4 devices share batches evenly" in odd
    for name in ("sharded", "both"):
        np.testing.assert_allclose(losses(tmp_path / name), alone, rtol=1e-5)
    np.testing.assert_allclose(losses(tmp_path / "data", 31)[:30], alone, rtol=1e-5)


def test_processes_have_the_curve_of_one(corpus: Path, alone: np.ndarray, tmp_path: Path) -> None:
    """Two processes of two devices each, and weights that no process has all of; tasks are scored on the way."""
    tasks = {name: str(write_sample(name, tmp_path)) for name in ("lambada", "coqa")}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    jobs = []
    for process in range(2):
        options = {"coordinator": f"127.0.0.1:{port}", "processes": 2, "process": process}
        chosen = settings(corpus, parallel="sharded", backend_options=options, tasks=tasks)
        jobs.append(start(tmp_path, [[str(tmp_path / "run"), chosen, False]], 2))
    for job in jobs:
        assert result(job) == [[[2, D, D]] * 2]
    np.testing.assert_allclose(losses(tmp_path / "run"), alone, rtol=1e-5)
    model = Model(load_backend("numpy"), *load_with_tokenizer(tmp_path / "run", 30))
    for line in read_scores(tmp_path / "run"):
        expected = evaluate(load_task(line["task"]), line["task"], Path(line["data"]), model).scores
        assert [score["value"] for score in line["scores"]] == pytest.approx(
            [each.value for each in expected], rel=1e-3
        )


def test_layouts_follow_the_weight_table() -> None:
    import jax
    from jax.sharding import PartitionSpec

    backend = ParallelJaxBackend(jax.devices("cpu")[:1], "float32", False, True, "sharded", 1)
    assert backend.layout(("wte", "weight"), (257, D)).spec == PartitionSpec(None, None)  # nothing to split


def test_wrong_options_are_refused(corpus: Path, tmp_path: Path) -> None:
    from gpt2spec.errors import BackendError
    from gpt2spec.plugins import load_backend

    for options, words in (
        ({"parallel": "pipeline"}, "as data, sharded, tensor, not as 'pipeline'"),
        ({"devices": 2}, "for several devices"),
        ({"parallel": "data", "devices": "many"}, "'devices' of backend 'jax' is a whole number"),
        ({"parallel": "data", "model_devices": 3}, "do not divide into groups of 3"),
        ({"parallel": "data", "compile": False}, "compiled programs only"),
    ):
        with pytest.raises(BackendError, match=words):
            load_backend("jax", **options)  # type: ignore[arg-type]
