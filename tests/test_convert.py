"""`gpt2spec convert` says what it wrote, leaves nothing half written when it is stopped, and takes little memory."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from checkpoint_models import CONFIG, TARGETS, random_parameters, same_bits, write
from kills import KILLS, victims

import gpt2spec
from gpt2spec.checkpoints import released
from gpt2spec.checkpoints.convert import convert, hashes_of, verify
from gpt2spec.checkpoints.opening import open_checkpoint
from gpt2spec.checkpoints.reader import CheckpointReader, Entry
from gpt2spec.config import GPT2Config
from gpt2spec.errors import CheckpointError, StorageError
from gpt2spec.files import sha256_of_file
from gpt2spec.parameters import Weight, count_parameters, weight_table

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "source", "ours", random_parameters())


@pytest.mark.parametrize("target", TARGETS)
def test_it_says_what_it_did(tmp_path: Path, source: Path, command: Command, target: str) -> None:
    code, out, _ = command("convert", source, tmp_path / "target", "--to", target, "--verify", "--hashes")
    assert code == 0
    assert f"from       {source}/checkpoints/step-00000001 (gpt2spec)" in out
    assert "28 of 7,952 values, float32, verified" in out
    assert out.count("Note: nanoGPT's own code has the exact GELU") == (target == "nanogpt")
    for name, digest in hashes_of(open_checkpoint(source)).items():
        assert any(line.startswith(f"{name} ") and line.endswith(digest) for line in out.splitlines())


def test_hashes_are_those_of_the_little_endian_values(source: Path) -> None:
    import hashlib

    params = random_parameters()
    expected = {name: hashlib.sha256(x.astype("<f4").tobytes()).hexdigest() for name, x in params.items()}
    assert hashes_of(open_checkpoint(source)) == expected


def test_verify_notices_a_weight_that_is_another(tmp_path: Path, source: Path) -> None:
    """The file is as it was written; a file that was damaged afterwards is refused earlier."""
    hashes = convert(open_checkpoint(source), tmp_path / "gpt2.bin", "llmc")
    verify(tmp_path / "gpt2.bin", hashes)
    params = random_parameters()
    params["ln_f.bias"].view(np.uint32)[-1] ^= 1
    convert(open_checkpoint(write(tmp_path / "other", "ours", params)), tmp_path / "gpt2.bin", "llmc", force=True)
    with pytest.raises(CheckpointError, match=r"'ln_f.bias' is not what was written"):
        verify(tmp_path / "gpt2.bin", hashes)


def test_info_shows_a_checkpoint_of_any_format(tmp_path: Path, source: Path, command: Command) -> None:
    path = write(tmp_path / "gpt2.bin", "llmc", random_parameters())
    code, out, _ = command("info", "--checkpoint", path, "--hashes")
    assert code == 0 and "2 layers, width 16, 2 heads of 8" in out
    assert "llm.c, float32, tokenizer not recorded" in out
    code, out, _ = command("info", "--checkpoint", source, "--hashes", "--json")
    described = json.loads(out)
    assert described["sha256"] == hashes_of(open_checkpoint(path))
    assert described["checkpoint"]["format"] == "gpt2spec"
    for wrong in (("gpt2", "--checkpoint", path), ("--hashes",), ("gpt2", "--step", 1)):
        assert command("info", *wrong)[0] == 2


def test_a_released_file_is_known_by_its_hash(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "hf", "hf", random_parameters())
    assert "This is" not in command("info", "--checkpoint", folder)[1]
    path = folder / "model.safetensors"
    small = released.RELEASES[1]._replace(size=path.stat().st_size, sha256=sha256_of_file(path))
    for release, told in ((small, "124M as on"), (small._replace(sha256="0" * 64), "not 124M as on")):
        monkeypatch.setattr(released, "RELEASES", (release,))
        assert f"This is {told}" in command("info", "--checkpoint", folder)[1]
        out = command("convert", folder, tmp_path / "gpt2.bin", "--to", "llmc", "--verify", "--force")[1]
        assert f"release    {told}" in out


def test_a_checkpoint_of_a_run_is_chosen_by_its_step(tmp_path: Path, source: Path, command: Command) -> None:
    from gpt2spec.checkpoints.native import TrainingState, save_checkpoint

    later = random_parameters(seed=1)
    folder = save_checkpoint(source, CONFIG, later, TrainingState(later, later, {"step": 2}))
    assert command("convert", source, tmp_path / "last", "--to", "hf")[0] == 0
    assert command("convert", source, tmp_path / "first", "--to", "hf", "--step", 1)[0] == 0
    assert same_bits(gpt2spec.load_checkpoint(tmp_path / "last")[1], later)
    assert same_bits(gpt2spec.load_checkpoint(tmp_path / "first")[1], random_parameters())
    (folder / "model.safetensors").write_bytes(b"")
    code, _, err = command("convert", source, tmp_path / "none", "--to", "hf")
    assert code == 2 and "--step 1 takes the one before" in err


def test_mistakes_are_told_in_one_line(tmp_path: Path, source: Path, command: Command) -> None:
    for arguments, message in (
        (("--to", "hff"), "there is no format 'hff' (did you mean 'hf'?); there are hf, nanogpt, llmc, gpt2spec"),
        (("--to", "hf", "--dtype", "float61"), "no dtype 'float61' to write (did"),
        (("--to", "hf", "--step", 9), "no checkpoint of step 9; it has 1"),
    ):
        code, _, err = command("convert", source, tmp_path / "target", *arguments)
        assert code == 2 and message in err
    code, _, err = command("convert", "x" * 300, tmp_path / "target", "--to", "hf")
    assert code == 2 and err.endswith("cannot be read: File name too long\n")
    code, _, err = command("convert", source, tmp_path / ("x" * 300), "--to", "hf")
    assert code == 2 and "cannot write" in err and err.endswith("File name too long\n")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("target", TARGETS)
def test_what_exists_is_replaced_only_by_force(tmp_path: Path, source: Path, command: Command, target: str) -> None:
    path = tmp_path / "target"
    assert command("convert", source, path, "--to", target)[0] == 0
    other = write(tmp_path / "other", "ours", random_parameters(seed=1))
    code, _, err = command("convert", other, path, "--to", target)
    assert code == 2 and "exists: choose another name, or replace it with --force" in err
    assert same_bits(gpt2spec.load_checkpoint(path)[1], random_parameters())
    assert command("convert", other, path, "--to", target, "--force")[0] == 0
    assert same_bits(gpt2spec.load_checkpoint(path)[1], random_parameters(seed=1))
    assert not list(tmp_path.glob(".*"))


def test_force_replaces_nothing_but_a_checkpoint_of_that_format(tmp_path: Path, source: Path) -> None:
    reader = open_checkpoint(source)
    folder = write(tmp_path / "hf", "hf", random_parameters())
    (folder / "notes.txt").write_text("mine")
    for target, to, message in (
        (folder, "hf", r"has other files, such as notes.txt"),
        (folder, "llmc", "exists and is no file"),
        (folder / "notes.txt", "hf", "exists and is no folder"),
        (source, "hf", "is or holds the source"),
        (tmp_path, "hf", "is or holds the source"),
    ):
        with pytest.raises(CheckpointError, match=message):
            convert(reader, target, to, force=True)
    bin_file = write(tmp_path / "gpt2.bin", "llmc", random_parameters())
    with pytest.raises(CheckpointError, match="is or holds the source"):
        convert(open_checkpoint(bin_file), bin_file, "llmc", force=True)
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interruption_leaves_nothing(tmp_path: Path, source: Path, target: str, error: type[BaseException]) -> None:
    counts: list[int] = []

    def interrupt(count: int) -> None:
        counts.append(count)
        if len(counts) == 10:
            raise error

    before = sorted(tmp_path.iterdir())
    with pytest.raises(error):
        convert(open_checkpoint(source), tmp_path / "target", target, progress=interrupt)
    assert sorted(tmp_path.iterdir()) == before


START = """
import signal, sys
from gpt2spec.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs without it
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("target", ["hf", "llmc"])
def test_ctrl_c_leaves_nothing(tmp_path: Path, target: str) -> None:
    header = np.zeros(256, "<i4")
    header[:8] = (20240326, 3, 1024, 50257, 12, 12, 768, 50304)
    with (tmp_path / "source.bin").open("wb") as file:  # GPT-2's size, all of it a hole
        file.write(header.data)
        file.truncate(1024 + 4 * (124439808 + (50304 - 50257) * 768))
    line = [sys.executable, "-c", START, "convert", tmp_path / "source.bin", tmp_path / "target", "--to", target]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob(".target.*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "gpt2spec: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["source.bin"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_full_disk_leaves_nothing_and_is_told(tmp_path: Path, source: Path, target: str) -> None:
    before = sorted(tmp_path.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(StorageError, match=r"cannot write .*target: the file would be larger"):
            convert(open_checkpoint(source), tmp_path / "target", target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(tmp_path.iterdir()) == before


def test_progress_has_a_rate_and_a_time_left(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from gpt2spec.byte_progress import ByteProgress

    with ByteProgress("writing", 4_000_000) as progress:
        progress.start = progress.last_line = time.monotonic() - 11
        progress.add(1_000_000)
        progress.add(1_000_000)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "writing  1/4 MB  0 MB/s  ETA 00:33"


def convert_again_and_again(one: str, other: str, path: str, target: str) -> None:
    while True:
        for source in (one, other):
            convert(open_checkpoint(source), Path(path), target, force=True)


@pytest.mark.parametrize("target", TARGETS)
def test_killed_at_any_moment_it_leaves_the_old_checkpoint_or_the_new_one(tmp_path: Path, target: str) -> None:
    config = CONFIG.replace(n_embd=128, n_layer=4, vocab_size=2000)
    wholes = [random_parameters(config), random_parameters(config, seed=1)]
    sources = [write(tmp_path / f"source-{i}", "ours", params, config) for i, params in enumerate(wholes)]
    path = tmp_path / "target"
    convert(open_checkpoint(sources[0]), path, target)

    def is_whole(found: Path) -> bool:
        loaded = gpt2spec.load_checkpoint(found)[1]
        return any(same_bits(loaded, params) for params in wholes)

    with victims(tmp_path, "torch", "test_convert") as processes:
        for moment in np.random.default_rng(0).uniform(0.0, 0.15, KILLS):
            code = processes.run("test_convert", "convert_again_and_again", *sources, path, target, until=float(moment))
            assert code == -signal.SIGKILL, processes.errors
            assert is_whole(path)
            leftovers = list(tmp_path.glob(".*.tmp"))
            assert len(leftovers) <= 2, "they do not pile up"
            for leftover in leftovers:
                with pytest.raises(CheckpointError):  # given by mistake, it is no checkpoint either, or it is whole
                    assert is_whole(leftover)
                    raise CheckpointError
    convert(open_checkpoint(sources[0]), path, target, force=True)
    assert list(tmp_path.glob(".*.tmp")) == []


def numbers(weight: Weight) -> np.ndarray:
    return np.arange(weight.size, dtype=np.float32).reshape(weight.shape)


MEASURE = """
import sys, torch
from pathlib import Path
from gpt2spec.checkpoints.convert import convert, verify
from gpt2spec.checkpoints.opening import open_checkpoint

def peak():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024

def through_all_formats(source, show):
    for to in ("hf", "nanogpt", "llmc"):
        target = source.with_suffix(f".{to}")
        verify(target, convert(open_checkpoint(source), target, to))
        show(to, peak())
        source = target

through_all_formats(Path(sys.argv[1]), lambda to, bytes: None)  # what libraries take once is not the weights'
start = peak()
through_all_formats(Path(sys.argv[2]), lambda to, bytes: print(to, bytes - start, flush=True))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_converting_takes_little_more_memory_than_a_weight(tmp_path: Path) -> None:
    """The weights have 250 MB, the largest 16 MB."""
    config = GPT2Config(n_layer=5, n_head=16, n_embd=1024, n_ctx=64, vocab_size=1000)
    assert count_parameters(config) * 4 > 250e6
    sources = [tmp_path / "small.bin", tmp_path / "large.bin"]
    for size, path in zip((CONFIG, config), sources, strict=True):
        entries = {w.name: Entry(w.name, w.shape, "float32", partial(numbers, w)) for w in weight_table(size)}
        convert(CheckpointReader(tmp_path, "made up", size, entries), path, "llmc")
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, sources)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"},
    )
    assert ran.returncode == 0, ran.stderr
    for line in ran.stdout.splitlines():
        to, grown = line.split()
        limit = 50e6 if to == "hf" else 100e6  # reading nanoGPT's file, PyTorch has 16 MB of it mapped besides
        assert int(grown) < limit, ran.stdout
