"""A run in several processes has the curve of one process, ends in all when one fails, and can be restarted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ranks import run_ranks

from gpt2spec.checkpoints.native import checkpoint_folder, checkpoint_steps, open_native
from gpt2spec.errors import BackendError, InputError
from gpt2spec.plugins import load_backend
from gpt2spec.processes import Processes
from gpt2spec.training.loop import train
from gpt2spec.training.settings import RunSettings
from gpt2spec.training.updates import Updates

pytest.importorskip("torch")

TEXT = "".join(f"{n} squared is {n * n}; {n} times {n + 1} is {n * (n + 1)}.\n" for n in range(600))
KINDS = pytest.mark.parametrize("kind", ["data", "sharded"])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("parallel")
    (folder / "squares.txt").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "squares.txt"


def settings(corpus: Path, **changes: Any) -> RunSettings:
    """Thirty steps; PyTorch runs eagerly, which starts at once."""
    values: dict[str, Any] = {"steps": 30, "eval_every": 10, "checkpoint_every": 15, "sample_tokens": 4, "lr": 1e-3}
    values |= {"preset": "test", "context": 16, "batch_size": 8, "backend_options": {"compile": False}}
    return RunSettings(data=str(corpus), backend="torch", **(values | changes))


def losses(run: Path) -> np.ndarray:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))  # written once
    return np.array([[line["loss"], line["grad_norm"]] for line in lines])


def in_process(settings: RunSettings, out: Path, resume: bool = False) -> Any:
    outcome = train(settings, out, resume=resume, quiet=True)
    return outcome.first, outcome.val_loss, outcome.sample


@pytest.fixture(scope="module")
def alone(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    run = tmp_path_factory.mktemp("alone") / "run"
    return run, in_process(settings(corpus), run)


@KINDS
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_have_the_curve_of_one(
    kind: str, ranks: int, corpus: Path, alone: tuple[Path, Any], tmp_path: Path
) -> None:
    """It is the same with accumulation, in which each rank has its rows of each micro-batch."""
    run, (_, val_loss, sample) = alone
    divided = settings(corpus, parallel=kind, batch_size=8 if ranks == 2 else 4, tokens_per_step=8 * 16)
    found = run_ranks(ranks, in_process, divided, tmp_path / "run")
    assert [first for first, _, _ in found] == [True] + [False] * (ranks - 1), found
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(run), rtol=1e-5)
    assert all(other == pytest.approx(val_loss, rel=1e-5) and words == sample for _, other, words in found)
    weights = [open_native(checkpoint_folder(each, 30)).params() for each in (run, tmp_path / "run")]
    moments = [open_native(checkpoint_folder(each, 30)).training().m for each in (run, tmp_path / "run")]
    for one, other in (weights, moments):
        assert all(np.linalg.norm(one[name] - other[name]) <= 1e-3 * np.linalg.norm(one[name]) + 1e-6 for name in one)


def test_gradients_are_sent_once_for_all_parts(corpus: Path, tmp_path: Path) -> None:
    chosen = settings(corpus, steps=3, eval_every=3, batch_size=2, accumulate=4, sample_tokens=0)
    assert run_ranks(2, backward_passes_that_send, chosen, tmp_path / "run") == [[False, False, False, True] * 3] * 2


def backward_passes_that_send(settings: RunSettings, out: Path) -> list[bool]:
    from torch.nn.parallel import DistributedDataParallel

    found, forward = [], DistributedDataParallel.forward

    def noting(self: Any, *args: Any, **named: Any) -> Any:
        found.append(self.require_backward_grad_sync)
        return forward(self, *args, **named)

    DistributedDataParallel.forward = noting
    train(settings, out, quiet=True)
    return found


def test_rows_of_the_ranks_are_disjoint_and_complete(corpus: Path, tmp_path: Path) -> None:
    """The rows of all processes, in micro-batches of uneven sizes, are those of a single process."""
    from gpt2spec_numpy.create import create

    from gpt2spec.data.dataset import open_dataset
    from gpt2spec.tokenizer import tokenizer_named

    data = open_dataset(corpus, tokenizer=tokenizer_named("bytes"), progress=False)
    chosen = settings(corpus, batch_size=6, tokens_per_step=16 * 16).with_vocabulary(data.vocab_size).resolved()
    rows = []
    for rank in range(2):
        backend = create()
        backend.processes = Processes(rank, 2)
        found = Updates(chosen.update_plan(), backend, chosen.model_config(), data.train).micro_batches(3)
        assert [len(each.tokens) for each in found] == [3, 3, 2]
        rows += [row for each in found for row in each.tokens.tolist()]
    whole = Updates(chosen.update_plan(), create(), chosen.model_config(), data.train)
    assert rows == [row for each in whole.micro_batches(3) for row in each.tokens.tolist()]


@KINDS
def test_a_run_goes_on_with_another_number_of_ranks(
    kind: str, corpus: Path, alone: tuple[Path, Any], tmp_path: Path
) -> None:
    """Checkpoints have the ordinary format, whoever writes them."""
    first = settings(corpus, parallel=kind)
    stopped = RunSettings(**{**first.__dict__, "steps": 30})
    run_ranks(2, until_step_15, stopped, tmp_path / "run")
    assert checkpoint_steps(tmp_path / "run") == [15]
    in_process(settings(corpus), tmp_path / "run", resume=True)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(alone[0]), rtol=1e-5)


def until_step_15(settings: RunSettings, out: Path) -> None:
    """Interrupt the run after fifteen steps in one of the processes, so that all end."""
    run = Updates.run

    def stop(self: Updates, state: Any, update: int) -> Any:
        if update == 15 and self.backend.processes.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return run(self, state, update)

    Updates.run = stop  # type: ignore[method-assign]
    assert not train(settings, out, quiet=True).finished


@KINDS
def test_a_failed_rank_ends_the_job(kind: str, corpus: Path, tmp_path: Path) -> None:
    start = time.monotonic()
    chosen = settings(corpus, parallel=kind)
    one, other = run_ranks(2, failing, chosen, tmp_path / "run")
    assert other == ("InputError", "the disk of rank 1 is on fire")
    assert one[0] == "BackendError" and "waits for another one that has ended" in one[1]
    assert time.monotonic() - start < 60


def failing(settings: RunSettings, out: Path) -> None:
    """Rank 1 fails in step 5; a process that fails ends, and its connections with it."""
    run = Updates.run

    def fail(self: Updates, state: Any, update: int) -> Any:
        if update == 5 and self.backend.processes.rank == 1:
            raise InputError("the disk of rank 1 is on fire")
        return run(self, state, update)

    Updates.run = fail  # type: ignore[method-assign]
    train(settings, out, quiet=True)


def test_batches_that_cannot_be_shared_are_refused(corpus: Path, tmp_path: Path) -> None:
    found = run_ranks(2, in_process, settings(corpus, batch_size=3), tmp_path / "run")
    assert all(kind == "ConfigError" and "must be multiples of 2" in text for kind, text in found)


def test_a_backend_of_one_device_says_so() -> None:
    with pytest.raises(BackendError, match="runs on one device: it does not support --parallel data"):
        load_backend("numpy", parallel="data")


def test_dropout_repeats(corpus: Path, tmp_path: Path) -> None:
    chosen = settings(corpus, steps=4, eval_every=4, checkpoint_every=2, dropout=0.3)
    for name in ("a", "b"):
        run_ranks(2, in_process, chosen, tmp_path / name)
    sums = [(checkpoint_folder(tmp_path / name, 4) / "SHA256SUMS").read_text() for name in ("a", "b")]
    assert sums[0] == sums[1]


def test_torchrun_restarts_a_killed_rank_and_the_run_ends_the_same(corpus: Path, tmp_path: Path) -> None:
    """One of two processes is killed in the middle; with --max-restarts both begin again from the last checkpoint."""
    options = ["--preset", "test", "--context", "16", "--batch-size", "8", "--steps", "60", "--checkpoint-every", "10"]
    options += ["--sample-tokens", "0", "--backend", "torch", "--no-compile", "--dropout", "0.1", "--auto-resume"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    line = [*torchrun, "--max-restarts", "1", "-m", "gpt2spec", "train", str(corpus), *options]
    line += ["--out", str(tmp_path / "broken")]
    with subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True) as job:
        deadline = time.monotonic() + 120
        while not checkpoint_steps(tmp_path / "broken"):
            assert job.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(worker(job.pid), signal.SIGKILL)
        _, errors = job.communicate(timeout=120)
    assert job.returncode == 0, errors
    same = settings(corpus, steps=60, checkpoint_every=10, dropout=0.1, lr=None, eval_every=100)
    run_ranks(2, in_process, same, tmp_path / "straight")
    assert np.array_equal(losses(tmp_path / "broken"), losses(tmp_path / "straight"))
    sums = [(checkpoint_folder(tmp_path / name, 60) / "SHA256SUMS").read_text() for name in ("broken", "straight")]
    assert sums[0] == sums[1]
    assert "waits for another one that has ended" in errors  # it was killed, and told of


def worker(agent: int) -> int:
    """The last of the processes that `torchrun` started."""
    psutil = pytest.importorskip("psutil")
    children = [child for child in psutil.Process(agent).children() if "gpt2spec" in " ".join(child.cmdline())]
    assert len(children) == 2
    return max(child.pid for child in children)
