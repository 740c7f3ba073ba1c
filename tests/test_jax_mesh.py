"""A run on several JAX devices, or in several processes, has the curve of one device; each device has its shards."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpt2spec_jax.parallel import ParallelJaxBackend
from mesh_runs import hash_of
from task_samples import write_sample

from gpt2spec.checkpoints.native import checkpoint_folder, open_native
from gpt2spec.checkpoints.sharded import load_sharded, save_sharded, writes_sharded
from gpt2spec.config import preset
from gpt2spec.errors import BackendError, CheckpointError
from gpt2spec.optimizer import initial_state
from gpt2spec.parameters import initial_parameters
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


def start(
    folder: Path, runs: list[Any], devices: int, variables: dict[str, str] | None = None
) -> "subprocess.Popen[str]":
    """Start a process with so many devices that does the runs."""
    path = folder / f"runs-{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(runs))
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    environment |= {"JAX_PLATFORMS": "cpu", **(variables or {})}
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
    """There are two and four devices, every layout, accumulation, and a checkpoint that another layout resumes from."""
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


def free_port(first: int = 0, last: int = 0) -> int:
    """A port of the range that nobody listens at, or any."""
    for port in range(first, last + 1):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return free.getsockname()[1]
    raise AssertionError("all ports are taken")


def test_processes_have_the_curve_of_one(corpus: Path, alone: np.ndarray, tmp_path: Path) -> None:
    """Two processes have two devices each, and no process ever has all weights, not even for a checkpoint.

    Tasks are scored on the way. Other devices go on from what they wrote: two of two processes, which find each other
    by the variables that `srun` sets, and a single one.
    """
    pytest.importorskip("orbax.checkpoint")
    run, port = tmp_path / "run", free_port()
    tasks = {name: str(write_sample(name, tmp_path)) for name in ("lambada", "coqa")}
    jobs = []
    for process in range(2):
        options = {"coordinator": f"127.0.0.1:{port}", "processes": 2, "process": process}
        chosen = settings(corpus, parallel="sharded", backend_options=options, checkpoint_every=28, tasks=tasks)
        jobs.append(start(tmp_path, [[str(run), chosen, False]], 2))
    (shapes, gathered), other = (result(job) for job in jobs)
    assert shapes == [[2, D, D]] * 2 and other == [shapes, gathered]
    np.testing.assert_allclose(losses(run), alone, rtol=1e-5)
    assert not (checkpoint_folder(run, 30) / "model.safetensors").exists()
    training = open_native(checkpoint_folder(run, 30)).training()
    saved = (open_native(checkpoint_folder(run, 30)).params(), training.m, training.v)
    assert [hash_of(each) for each in saved] == gathered
    model = Model(load_backend("numpy"), *load_with_tokenizer(run, 30))
    for line in read_scores(run):
        expected = evaluate(load_task(line["task"]), line["task"], Path(line["data"]), model).scores
        assert [score["value"] for score in line["scores"]] == pytest.approx(
            [each.value for each in expected], rel=1e-3
        )

    shutil.rmtree(checkpoint_folder(run, 30))
    shutil.copytree(run, tmp_path / "slurm")
    port = free_port(61440, 65535)  # JAX derives it from the number of the job, modulo 4096
    chosen = settings(corpus, parallel="sharded", backend_options={"distributed": True}, eval_windows=8)
    jobs = []
    for process in range(2):
        variables = {"SLURM_JOB_ID": str(port - 61440), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
        variables |= {"SLURM_PROCID": str(process), "SLURM_LOCALID": str(process), "SLURM_STEP_NUM_NODES": "1"}
        jobs.append(start(tmp_path, [[str(tmp_path / "slurm"), chosen, True]], 1, variables))
    assert [result(job)[0] for job in jobs] == [[[2, D, 2 * D]]] * 2
    train(RunSettings(**settings(corpus)), run, resume=True, quiet=True)
    for folder in (tmp_path / "slurm", run):
        np.testing.assert_allclose(losses(folder), alone, rtol=1e-5)
    assert (checkpoint_folder(run, 30) / "model.safetensors").exists()  # one process has the whole


def test_a_damaged_part_and_a_missing_library_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mesh has one device, which writes shards if that is requested."""
    import jax

    pytest.importorskip("orbax.checkpoint")
    backend, config = ParallelJaxBackend(jax.devices("cpu")[:1], "float32", False, True, "sharded", 1), preset("test")
    params = initial_parameters(config)
    state = initial_state(backend.ops, backend.load_params(params))
    assert writes_sharded(backend, "parts") and not writes_sharded(backend, None)
    save_sharded(tmp_path, config, backend, backend.sharding, state, {"step": 1}, None)
    folder = checkpoint_folder(tmp_path, 1)
    loaded = backend.dump_params(load_sharded(open_native(folder), backend.sharding)["params"])
    assert all(np.array_equal(loaded[name], params[name]) for name in params)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "orbax.checkpoint", None)
        with pytest.raises(BackendError, match=r'pip install "gpt2spec\[orbax\]"'):
            writes_sharded(backend, "parts")
        with pytest.raises(BackendError, match=r'pip install "gpt2spec\[orbax\]"'):
            open_native(folder).params()
    files = (path for path in (folder / "parts" / "v").rglob("*") if path.is_file())
    large = max(files, key=lambda path: path.stat().st_size)
    large.write_bytes(large.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"damaged: parts/v/.* does not match its checksum"):
        load_sharded(open_native(folder), backend.sharding)


def test_an_array_that_cannot_be_written_is_told_as_an_error_of_the_system(tmp_path: Path) -> None:
    """Files are limited to 8 KiB. Orbax's log of it is left out."""
    pytest.importorskip("orbax.checkpoint")
    program = (
        "import jax, pathlib, sys\n"
        "from gpt2spec_jax import sharded_files\n"
        "try:\n    sharded_files.write({'x': jax.numpy.ones((999, 9))}, pathlib.Path(sys.argv[1]))\n"
        "except OSError as error:\n    print(error.strerror)\n"
    )
    line = ["bash", "-c", 'ulimit -f 8; exec "$@"', "bash", sys.executable, "-c", program, str(tmp_path)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    ran = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "File too large\n", "")


def test_layouts_follow_the_weight_table() -> None:
    import jax
    from jax.sharding import PartitionSpec

    backend = ParallelJaxBackend(jax.devices("cpu")[:1], "float32", False, True, "sharded", 1)
    assert backend.layout(("wte", "weight"), (257, D)).spec == PartitionSpec(None, None)  # nothing to split


def test_wrong_options_are_refused(corpus: Path, tmp_path: Path) -> None:
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
