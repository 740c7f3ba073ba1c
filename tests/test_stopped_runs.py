"""Runs that are stopped between two writes, by a signal, by a crash of the machine, or by each other."""

import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpt2spec.checkpoints.native import checkpoint_folder, checkpoint_steps
from gpt2spec.cli.main import main
from gpt2spec.errors import CheckpointError, DataError, StorageError
from gpt2spec.tokenizer import train_tokenizer, write_tokenizer
from gpt2spec.training import checkpoints, opened, reports, samples
from gpt2spec.training.loop import train
from gpt2spec.training.run_directory import locked_run, open_run, read_metrics
from gpt2spec.training.settings import RunSettings
from gpt2spec.training.tensorboard import TensorBoardLog

TEXT = "".join(f"{n} squared is {n * n}; {n} times {n + 1} is {n * (n + 1)}.\n" for n in range(300))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("stopped-runs")
    (folder / "squares.txt").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "squares.txt"


def settings(corpus: Path, **changes: Any) -> RunSettings:
    values: dict[str, Any] = {"data": str(corpus), "eval_every": 6, "checkpoint_every": 2, "sample_tokens": 0}
    return RunSettings(**({"steps": 6, "preset": "test", "context": 16, "batch_size": 2} | values | changes))


def sums(run: Path) -> list[str]:
    return [(checkpoint_folder(run, step) / "SHA256SUMS").read_text() for step in checkpoint_steps(run)]


# ------------------------------------------------------------------ between two writes


@pytest.mark.parametrize(
    ("module", "where"),
    [(opened, "discard_after"), (opened, "forget_after"), (reports, "MetricsLog"), (opened, "write_toml")],
)
def test_a_resume_that_is_killed_anywhere_can_be_resumed(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, where: str
) -> None:
    """Going back to an earlier step takes several writes; the exception stands in for a kill before one of them."""
    run, chosen = tmp_path / "run", settings(corpus)
    train(chosen, run, quiet=True)
    expected = sums(run)

    def killed(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, where, killed)
    with pytest.raises(KeyboardInterrupt):
        train(settings(corpus, steps=8), run, resume=True, at=2, quiet=True)
    monkeypatch.undo()
    train(chosen, run, resume=True, quiet=True)
    assert sums(run) == expected and len(read_metrics(run)) == 6


def test_a_checkpoint_that_cannot_be_removed_any_more_is_a_resume_that_ends_earlier(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later checkpoints go from the last one on: what is left is a run that was stopped at some step."""
    run = tmp_path / "run"
    train(settings(corpus), run, quiet=True)
    remove, left = opened.discard_after.__globals__["remove_checkpoint"], [1]

    def killed(folder: Path) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        remove(folder)

    monkeypatch.setitem(opened.discard_after.__globals__, "remove_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        train(settings(corpus), run, resume=True, at=2, quiet=True)
    assert checkpoint_steps(run) == [2, 4]


def test_what_a_crash_of_the_machine_left_after_the_last_checkpoint_is_done_again(corpus: Path, tmp_path: Path) -> None:
    """File systems may leave zeros in the place of lines that were not synced."""
    run = tmp_path / "run"
    train(settings(corpus), run, quiet=True)
    whole = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join(whole[:5]) + b"\0" * 300 + b'\n{"step": 7, "lo\n')
    with pytest.raises(CheckpointError, match="is damaged"):
        train(settings(corpus), run, resume=True, quiet=True)
    assert checkpoint_steps(run) == [2, 4, 6]
    train(settings(corpus), run, resume=True, at=4, quiet=True)
    assert [line["step"] for line in read_metrics(run)] == [1, 2, 3, 4, 5, 6]


def test_a_run_that_is_killed_while_it_samples_has_every_sample(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, chosen = tmp_path / "run", settings(corpus, sample_every=2, sample_tokens=2)
    train(chosen, tmp_path / "straight", quiet=True)
    sample, left = samples.sample, [1]

    def killed(*args: Any) -> Any:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return sample(*args)

    monkeypatch.setattr(samples, "sample", killed)
    with pytest.raises(KeyboardInterrupt):
        train(chosen, run, quiet=True)
    monkeypatch.undo()
    train(chosen, run, resume=True, quiet=True)
    assert (run / "samples.jsonl").read_bytes() == (tmp_path / "straight" / "samples.jsonl").read_bytes()


def test_a_new_run_that_was_killed_before_it_had_settings_begins_again_with_others(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tokenizer is written before the settings, without which there is no run, and is replaced."""
    tokenizers = [train_tokenizer([TEXT[:size]], 270, progress=False) for size in (400, 4000)]
    for i, tokenizer in enumerate(tokenizers):
        (tmp_path / str(i)).mkdir()
        write_tokenizer(tmp_path / str(i), tokenizer)

    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(opened, "create_run", killed)
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(settings(corpus, tokenizer=str(tmp_path / "0")), run, quiet=True)
    monkeypatch.undo()
    assert main(["train", "--auto-resume", str(corpus), "--preset", "test", "--steps", "1", "--out", str(run)]) == 0
    (run / "config.toml").unlink()
    (run / "metrics.jsonl").unlink()
    train(settings(corpus, tokenizer=str(tmp_path / "1")), run, quiet=True)
    assert (run / "tokenizer" / "merges.txt").read_bytes() == tokenizers[1].merges


def test_a_run_without_a_checkpoint_says_that_it_has_none_yet(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(settings(corpus), tmp_path / "run", quiet=True)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert main(["generate", "--checkpoint", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == (
        f"gpt2spec: error: {tmp_path / 'run'} holds no checkpoint yet: the run has not come to its first one\n"
    )


def test_a_run_whose_data_has_moved_asks_for_it(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    data = [shutil.copy(corpus, tmp_path / "a" / name) for name in ("squares.txt", "others.txt")]
    for name, chosen in (("one", str(data[0])), ("several", [f"{data[0]}:1", f"{data[1]}:2"])):
        train(settings(corpus, data=chosen), tmp_path / name, quiet=True)
    (tmp_path / "a").rename(tmp_path / "b")
    moved = [str(path).replace("/a/", "/b/") for path in data]
    for name, chosen in (("one", moved[0]), ("several", [f"{moved[0]}:1", f"{moved[1]}:2"])):
        again = ["train", "--resume", "--out", str(tmp_path / name), "--steps", "8", "--quiet"]
        with pytest.raises(DataError, match=r"is not in .*/a/squares\.txt any more; .* gpt2spec train DATA --out .*"):
            before, _ = open_run(tmp_path / name)
            train(before, tmp_path / name, resume=True, quiet=True)
        assert main([*again, *([chosen] if name == "one" else chosen)]) == 0
        assert main([*again[:5], "10", "--quiet"]) == 0  # it remembers


def test_a_run_whose_data_is_a_pattern_is_resumed(corpus: Path, tmp_path: Path) -> None:
    chosen = settings(corpus, data=str(corpus.parent / "**" / "squ*.txt"))
    train(chosen, tmp_path / "run", quiet=True)
    assert train(replace(chosen, steps=8), tmp_path / "run", resume=True, quiet=True).finished
    gone = replace(chosen, data=str(tmp_path / "*.txt"))
    with pytest.raises(DataError, match=r"is not in .*/\*\.txt any more"):
        train(gone, tmp_path / "run", resume=True, quiet=True)


# ------------------------------------------------------------------ two processes


def test_of_two_processes_that_begin_a_run_one_does(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with locked_run(run, new=True), pytest.raises(CheckpointError, match="another process is training"):
        train(settings(corpus), run, quiet=True)
    assert not (run / "config.toml").exists()
    train(settings(corpus), run, quiet=True)


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENOLCK, errno.ENOSYS])
def test_file_systems_without_locks_will_do(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Lustre may have none, NFS has none for folders. Unfinished files stay, as another process may be writing them."""

    def refuse(*args: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.toml.01234567.tmp").write_text("")
    train(settings(corpus), tmp_path / "run", quiet=True)
    assert checkpoint_steps(tmp_path / "run") == [2, 4, 6]
    assert (tmp_path / "run" / ".config.toml.01234567.tmp").exists()


# ------------------------------------------------------------------ signals


@pytest.fixture(autouse=True)
def hangup_heeded() -> Iterator[None]:
    """Do not ignore SIGHUP, which children inherit where the tests were started by `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def started(corpus: Path, run: Path, *options: str, **process: Any) -> "subprocess.Popen[str]":
    """An endless training run, some steps of which are done."""
    line = [sys.executable, "-m", "gpt2spec", "train", str(corpus), "--preset", "test", "--context", "16"]
    line += ["--batch-size", "2", "--steps", "100000", "--out", str(run), *options]
    job = subprocess.Popen(line, text=True, **({"stderr": subprocess.PIPE} | process))
    deadline = time.monotonic() + 60
    while not (run / "metrics.jsonl").exists() or len((run / "metrics.jsonl").read_bytes()) < 1000:
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    return job


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_even_where_a_launcher_passes_it_on_once_more(corpus: Path, tmp_path: Path, number: int) -> None:
    run = tmp_path / "run"
    with started(corpus, run) as job:
        for _ in range(3):
            job.send_signal(number)
            time.sleep(0.002)
        _, errors = job.communicate(timeout=60)
    (step,) = checkpoint_steps(run)
    assert job.returncode == 128 + number and "Traceback" not in errors
    assert errors.splitlines()[-1] == (
        f"Interrupted; step {step} is saved. Continue with: gpt2spec train --out {run} --resume"
    )


def test_nohup_means_that_a_run_outlives_its_terminal(corpus: Path, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which a child inherits
    try:
        job = started(corpus, tmp_path / "run")
    finally:
        signal.signal(signal.SIGHUP, before)
    with job:
        job.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            job.wait(0.3)
        job.send_signal(signal.SIGTERM)
        assert job.wait(60) == 128 + signal.SIGTERM


def test_a_closed_terminal_saves(corpus: Path, tmp_path: Path) -> None:
    """The progress bar then has nothing to write to."""
    run = tmp_path / "run"
    ours, theirs = os.openpty()
    with started(corpus, run, stderr=theirs, stdout=theirs) as job:
        os.close(theirs)
        os.close(ours)
        time.sleep(0.2)
        job.send_signal(signal.SIGHUP)
        job.wait(60)
    assert len(checkpoint_steps(run)) == 1


def test_a_log_on_a_full_disk_stops_no_run(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with Path("/dev/full").open("w") as full, started(corpus, run, stderr=full) as job:
        job.send_signal(signal.SIGTERM)
        job.wait(60)
    assert len(checkpoint_steps(run)) == 1


def test_sigterm_ends_a_command_in_one_line_with_nothing_half_left(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "gpt2spec", "convert", "demo", str(tmp_path / "demo.bin"), "--to", "llmc"]
    for _ in range(8):
        with subprocess.Popen(line, text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as job:
            while not list(tmp_path.iterdir()) and job.poll() is None:
                time.sleep(0.001)
            job.send_signal(signal.SIGTERM)
            _, errors = job.communicate(timeout=60)
        if job.returncode:  # it was not faster than the signal
            break
        (tmp_path / "demo.bin").unlink()
    assert (job.returncode, errors) == (-signal.SIGTERM, "gpt2spec: terminated\n")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ full disks


def test_a_full_disk_under_tensorboards_files_is_told_and_nothing_waits_for_it(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    chosen = settings(corpus, steps=40, tensorboard=True)
    (tmp_path / "run" / "tensorboard").mkdir(parents=True)
    for second in range(60):
        name = f"events.out.tfevents.{time.time() + second:.0f}.{socket.gethostname()}.0"
        (tmp_path / "run" / "tensorboard" / name).symlink_to("/dev/full")
    with pytest.raises(StorageError, match="there is no space left on the disk"):
        train(chosen, tmp_path / "run", quiet=True)
    shutil.rmtree(tmp_path / "run" / "tensorboard")
    assert train(chosen, tmp_path / "run", resume=True, quiet=True).finished


class Full:
    """A file on a disk that has no room after some writes."""

    def __init__(self, writes: int, file: Any) -> None:
        self.left, self.file = writes, file

    def write(self, data: bytes) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.file.write(data)

    def close(self) -> None:
        self.file.close()


def test_what_is_under_way_is_saved_before_a_full_disk_is_told(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step that was being written when the disk of another file was full counts as saved, and is."""
    pytest.importorskip("tensorboardX")
    save, init = checkpoints.save_checkpoint, TensorBoardLog.__init__

    def slow(*args: Any) -> Path:
        time.sleep(0.3)
        return save(*args)

    def small(self: TensorBoardLog, run: Path, step: int) -> None:
        init(self, run, step)
        self._file = Full(2, self._file)  # type: ignore[assignment]

    monkeypatch.setattr(checkpoints, "save_checkpoint", slow)
    monkeypatch.setattr(TensorBoardLog, "__init__", small)
    chosen = settings(corpus, tensorboard=True, eval_every=3)
    with pytest.raises(StorageError, match=r"cannot write .*tensorboard.*: there is no space.*; step 2 is saved"):
        train(chosen, tmp_path / "run", quiet=True)
    assert checkpoint_steps(tmp_path / "run") == [2]


def test_a_full_disk_under_a_trace_is_told(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "profile").mkdir(parents=True)
    (tmp_path / "run" / "profile" / "calls.prof").symlink_to("/dev/full")
    chosen = settings(corpus, checkpoint_every=3)
    with pytest.raises(StorageError, match=r"cannot write .*profile: .*disk.*; step 3 is saved"):
        train(chosen, tmp_path / "run", quiet=True, profile=2)
    assert train(chosen, tmp_path / "run", resume=True, quiet=True).finished


def test_a_trace_that_cannot_begin_is_told_with_what_is_saved(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "profile").write_text("no folder")
    with pytest.raises(StorageError, match=r"cannot write .*profile: .*; step 2 is saved\. Put that right"):
        train(settings(corpus), tmp_path / "run", quiet=True, profile=2)


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_profiler_that_cannot_write_is_told(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """PyTorch's only logs that it could not; JAX's raises an error of its own."""
    framework = pytest.importorskip(backend)
    chosen = settings(corpus, backend=backend)
    if backend == "torch":
        chosen = settings(corpus, backend=backend, backend_options={"compile": False})
        profile = framework.profiler.profile
        monkeypatch.setattr(profile, "export_chrome_trace", lambda self, path: Path(path).write_text('{"half'))
    else:
        stop = framework.profiler.stop_trace

        def full() -> None:
            stop()
            raise framework.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: vm.xplane.pb; No space left on device")

        monkeypatch.setattr(framework.profiler, "stop_trace", full)
    with pytest.raises(StorageError, match=r"cannot write .*profile: .*(disk may be full|No space left)"):
        train(chosen, tmp_path / "run", quiet=True, profile=2)


@pytest.mark.parametrize(
    "error", [RuntimeError("inductor: OSError: [Errno 28] No space left on device"), OSError(30, "Read-only", "/x/y")]
)
def test_a_full_disk_under_a_frameworks_own_files_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr("gpt2spec.plugins.backend_listings", fail)
    assert main(["backends"]) == 2
    found = capsys.readouterr().err
    assert found.startswith("gpt2spec: error: ") and found.count("\n") == 1
    assert "No space left on device for what a framework writes" in found or "cannot write /x/y: Read-only" in found
