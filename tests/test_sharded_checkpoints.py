"""Sharded checkpoints are written by processes none of which has all weights, and read by any number of processes."""

import ctypes
import json
import os
import resource
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ranks import run_ranks
from safetensors.numpy import save_file
from test_parallel import TEXT, in_process, losses, settings, until_step_15

from gpt2spec.checkpoints import sharded
from gpt2spec.checkpoints.native import checkpoint_folder, checkpoint_steps, open_native
from gpt2spec.checkpoints.opening import load_checkpoint
from gpt2spec.checkpoints.safetensors_shards import open_sharded
from gpt2spec.cli.main import main
from gpt2spec.errors import CheckpointError, ConfigError
from gpt2spec.parameters import HostParams
from gpt2spec.training.checkpoints import Checkpoints

pytest.importorskip("torch")
from gpt2spec_torch.parallel.sharded import TorchSharding


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("parts")
    (folder / "squares.txt").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "squares.txt"


@pytest.fixture(scope="module")
def stopped(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks that was interrupted after fifteen of its thirty steps."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    run_ranks(2, until_step_15, settings(corpus, parallel="sharded"), run)
    assert checkpoint_steps(run) == [15]
    return run


@pytest.fixture(scope="module")
def alone(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    run = tmp_path_factory.mktemp("alone") / "run"
    in_process(settings(corpus), run)
    return losses(run)


def copy_of(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "run")


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# ---------------------------------------------------------------------- what is in them


def whole_state(settings: Any, out: Path) -> list[HostParams]:
    """Train, and gather the state that was saved last in one process."""
    found: list[HostParams] = []
    save = Checkpoints.run

    def noting(self: Checkpoints) -> None:
        run = self._run
        found[:] = [run.backend.dump_params(run.state[kind]) for kind in ("params", "m", "v")]
        save(self)

    Checkpoints.run = noting  # type: ignore[method-assign]
    in_process(settings, out)
    return found


def test_they_hold_what_would_be_gathered(corpus: Path, tmp_path: Path) -> None:
    """They hold it to the bit, from three processes that do not divide rows of 32; they rotate and convert."""
    run = tmp_path / "run"
    chosen = settings(corpus, parallel="sharded", batch_size=6, steps=5, checkpoint_every=1, keep=2, keep_every=2)
    chosen = replace(chosen, eval_windows=6)
    gathered, *_ = run_ranks(3, whole_state, chosen, run)
    assert checkpoint_steps(run) == [2, 4, 5]
    assert names_in(run / "checkpoints") == {"step-00000002", "step-00000004", "step-00000005"}
    folder = checkpoint_folder(run, 5)
    assert len(names_in(folder / "parts" / "m")) == 3
    assert not {"model.safetensors", "optimizer.safetensors"} & names_in(folder)
    training = open_native(folder).training()
    for saved, expected in zip((open_native(folder).params(), training.m, training.v), gathered, strict=True):
        assert list(saved) == list(expected)
        assert all(np.array_equal(saved[name], expected[name]) for name in expected)
    assert main(["convert", str(run), str(tmp_path / "hf"), "--to", "hf", "--verify", "--quiet"]) == 0
    converted = load_checkpoint(tmp_path / "hf")[1]
    assert all(np.array_equal(converted[name], gathered[0][name]) for name in converted)


def test_one_in_parts_becomes_a_whole_one_that_a_run_goes_on_from(
    stopped: Path, alone: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(stopped, tmp_path)
    folder, whole = checkpoint_folder(run, 15), tmp_path / "whole"
    assert main(["convert", str(run), str(whole), "--to", "gpt2spec", "--verify", "--quiet"]) == 0
    assert names_in(whole) == names_in(folder) - {"parts"} | {"model.safetensors", "optimizer.safetensors"}
    one, other = open_native(folder).training(), open_native(whole).training()
    assert other.progress == {name: value for name, value in one.progress.items() if name != "parts"}
    assert all(np.array_equal(x[name], y[name]) for x, y in ((one.m, other.m), (one.v, other.v)) for name in x)
    shutil.rmtree(folder)
    whole.rename(folder)
    assert main(["train", "--out", str(run), "--resume", "--quiet", "--parallel", "none"]) == 0
    np.testing.assert_allclose(losses(run), alone, rtol=1e-5)
    assert main(["convert", str(run), str(tmp_path / "hf"), "--to", "hf", "--quiet"]) == 0
    for options, words in (
        ([], "has only weights: moments and"),
        (["--dtype", "bfloat16"], "is float32, not bfloat16"),
    ):
        source = run if options else tmp_path / "hf"
        assert main(["convert", str(source), str(tmp_path / "no"), "--to", "gpt2spec", "--quiet", *options]) == 2
        assert words in capsys.readouterr().err


def test_the_format_is_a_choice(corpus: Path, tmp_path: Path) -> None:
    chosen = settings(corpus, parallel="sharded", steps=1, checkpoint_format="whole")
    run_ranks(2, in_process, chosen, tmp_path / "run")
    assert "model.safetensors" in names_in(checkpoint_folder(tmp_path / "run", 1))
    with pytest.raises(ConfigError, match="backend 'torch' as it is set up here has all of them"):
        in_process(settings(corpus, steps=1, checkpoint_format="parts"), tmp_path / "other")
    with pytest.raises(ConfigError, match="checkpoint_format is 'whole' or 'parts', not 'half'"):
        settings(corpus, checkpoint_format="half")


# ---------------------------------------------------------------------- going on


@pytest.mark.parametrize(("ranks", "kind"), [(4, "sharded"), (2, "data")])
def test_a_run_goes_on_with_other_ranks(
    ranks: int, kind: str, corpus: Path, stopped: Path, alone: np.ndarray, tmp_path: Path
) -> None:
    run = copy_of(stopped, tmp_path)
    run_ranks(ranks, in_process, settings(corpus, parallel=kind), run, True)
    np.testing.assert_allclose(losses(run), alone, rtol=1e-5)
    assert ("parts" in names_in(checkpoint_folder(run, 30))) == (kind == "sharded")


@pytest.mark.parametrize(("options", "rtol"), [(["--parallel", "none"], 1e-5), (["--backend", "numpy"], 1e-4)])
def test_a_run_goes_on_in_one_process(
    options: list[str], rtol: float, stopped: Path, alone: np.ndarray, tmp_path: Path
) -> None:
    """It resumes without `torchrun`, with a backend that has none of the options that the run began with."""
    run = copy_of(stopped, tmp_path)
    assert main(["train", "--out", str(run), "--resume", "--quiet", *options]) == 0
    np.testing.assert_allclose(losses(run), alone, rtol=rtol)
    assert "model.safetensors" in names_in(checkpoint_folder(run, 30))


# ---------------------------------------------------------------------- what goes wrong


def test_damage_is_refused_by_every_process(corpus: Path, stopped: Path, tmp_path: Path) -> None:
    """The damage is a flipped bit, which only one process notices; a missing file; or an extra file."""
    run = copy_of(stopped, tmp_path)
    folder = checkpoint_folder(run, 15)
    *_, last = sorted((folder / "parts" / "v").iterdir())
    content = last.read_bytes()
    last.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found = run_ranks(2, in_process, settings(corpus, parallel="sharded"), run, True)
    assert found[1][0] == "CheckpointError" and f"damaged: parts/v/{last.name} does not match" in found[1][1]
    assert found[0] == ("BackendError", "process 0 of 2 ends with another one: see its message")
    with pytest.raises(CheckpointError, match=f"damaged: parts/v/{last.name}"):
        open_native(folder).training()
    open_native(folder).params()  # which is whole
    (folder / "parts" / "params" / last.name).rename(folder / "parts" / "params" / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"damaged: parts/params/other\.safetensors does not match"):
        open_native(folder).params()
    (folder / "parts" / "params" / "other.safetensors").unlink()
    with pytest.raises(CheckpointError, match=f"damaged: parts/params/{last.name} is missing"):
        open_native(folder).params()


def killed_while_saving(settings: Any, out: Path, resume: bool = False) -> None:
    """Rank 1 is killed when some of its second checkpoint is on the disk."""
    from gpt2spec_torch.parallel.sharded import TorchSharding

    save = TorchSharding.save

    def kill(self: Any, params: Any, folder: Path) -> None:
        save(self, params, folder)
        if self.processes.rank == 1 and folder.name == "m" and "step-00000004" in str(folder):
            os.kill(os.getpid(), signal.SIGKILL)

    TorchSharding.save = kill  # type: ignore[method-assign]
    in_process(settings, out, resume)


def test_a_rank_that_is_killed_while_saving_leaves_nothing_half(
    corpus: Path, alone: np.ndarray, tmp_path: Path
) -> None:
    run, chosen = tmp_path / "run", settings(corpus, parallel="sharded", steps=30, checkpoint_every=2)
    one, other = run_ranks(2, killed_while_saving, chosen, run)
    assert other == "killed"
    assert one[0] == "BackendError" and "waits for another one that has ended" in one[1]
    assert checkpoint_steps(run) == [2]
    (run / "checkpoints" / ".step-00000004.parts.tmp" / "parts").mkdir(parents=True, exist_ok=True)  # were all killed
    run_ranks(2, in_process, settings(corpus, parallel="sharded"), run, True)
    np.testing.assert_allclose(losses(run), alone, rtol=1e-5)
    assert names_in(run / "checkpoints") == {"step-00000002", "step-00000015", "step-00000030"}


def written_late(settings: Any, out: Path) -> None:
    """Nothing of a checkpoint is written before the run is at step 4."""
    save, save_shards, runs = Checkpoints.run, TorchSharding.save, []

    def known(self: Checkpoints) -> None:
        runs.append(self._run)
        save(self)

    def late(self: TorchSharding, params: Any, folder: Path) -> None:
        deadline = time.monotonic() + 60
        while runs[0].step < 4 and time.monotonic() < deadline:
            time.sleep(0.005)
        save_shards(self, params, folder)

    Checkpoints.run, TorchSharding.save = known, late  # type: ignore[method-assign]
    began = time.monotonic()
    in_process(settings, out)
    assert time.monotonic() - began < 60


def test_steps_go_on_while_parts_are_written_as_they_were(corpus: Path, tmp_path: Path) -> None:
    chosen = settings(corpus, parallel="sharded", steps=5, checkpoint_every=2)
    assert run_ranks(2, written_late, chosen, tmp_path / "late") == [None, None]
    run_ranks(2, in_process, replace(chosen, checkpoint_format="whole"), tmp_path / "whole")
    for step in (2, 4, 5):
        late, whole = (checkpoint_folder(tmp_path / name, step) for name in ("late", "whole"))
        late, whole = open_native(late), open_native(whole)
        params, expected = late.params(), whole.params()
        moments, expected_moments = late.training(), whole.training()
        for found, same in ((params, expected), (moments.m, expected_moments.m), (moments.v, expected_moments.v)):
            assert all(np.array_equal(found[name], same[name]) for name in same)


def full_disk_of_rank_1(settings: Any, out: Path) -> None:
    """Limit the files of rank 1 to a few bytes from its second checkpoint until the third begins."""
    save, before = Checkpoints.run, resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(self: Checkpoints) -> None:
        run = self._run
        if run.backend.processes.rank == 1 and run.step == 4:
            self.background.wait()  # for the first one
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
        try:
            save(self)
        finally:
            if run.step != 4:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)

    Checkpoints.run = limit  # type: ignore[method-assign]
    in_process(settings, out)


def test_a_write_that_fails_in_one_rank_ends_all_with_its_message(corpus: Path, tmp_path: Path) -> None:
    run, chosen = tmp_path / "run", settings(corpus, parallel="sharded", steps=6, checkpoint_every=2)
    for kind, text in run_ranks(2, full_disk_of_rank_1, chosen, run):
        assert kind == "StorageError"
        assert "step-00000004: the file would be larger than this system allows; step 2 is saved" in text
    assert names_in(run / "checkpoints") == {"step-00000002"}


def test_a_file_that_is_shown_late_is_hashed_all_the_same(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a network's file system, a process may not see at once what others have written."""
    run = tmp_path / "run"
    run_ranks(2, seeing_little, settings(corpus, parallel="sharded", steps=1), run)
    open_native(checkpoint_folder(run, 1)).training()
    open_native(checkpoint_folder(run, 1)).params()


def seeing_little(settings: Any, out: Path) -> None:
    all_files, calls = sharded._files, []

    def late(folder: Path) -> list[str]:
        calls.append(folder)
        return all_files(folder) if len(calls) > 1 else []

    sharded._files = late  # type: ignore[assignment]
    in_process(settings, out)


# ---------------------------------------------------------------------- memory


def growth_while_saving(settings: Any, out: Path) -> int:
    """The most bytes by which the memory of this process grows during its first save."""
    found: list[int] = []
    save = Checkpoints.run

    def measured(self: Checkpoints) -> None:
        ctypes.CDLL(None).malloc_trim(0)  # what is free is not the process's any more
        Path("/proc/self/clear_refs").write_text("5")  # and the peak begins anew
        before = memory("VmRSS")
        save(self)
        self.background.wait()
        found.append(memory("VmHWM") - before)

    Checkpoints.run = measured  # type: ignore[method-assign]
    in_process(settings, out)
    return found[0]


def memory(name: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak of memory cannot be reset")
def test_no_process_has_the_whole_in_memory(corpus: Path, tmp_path: Path) -> None:
    """Each needs a copy of its weights and moments, and some weights again; gathering needs all of everything."""
    model = {"n_layer": 3, "n_embd": 512, "n_head": 8}
    chosen = settings(corpus, parallel="sharded", steps=1, context=8, batch_size=6, model=model, eval_windows=6)
    weights = 3 * 12 * 512**2 * 4
    parted = run_ranks(6, growth_while_saving, chosen, tmp_path / "parts")
    assert max(parted) < (3 + 3) * weights / 6, (parted, weights)
    whole = replace(chosen, checkpoint_format="whole")
    first, *_ = run_ranks(6, growth_while_saving, whole, tmp_path / "whole")
    assert first > 2.5 * weights, (first, weights)


# ---------------------------------------------------------------------- files


def write_part(path: Path, tensors: HostParams, places: Any) -> None:
    save_file(tensors, path, metadata={"DCP_SHARDING_INFO": json.dumps(places)})


def test_parts_along_any_axes_are_put_together(tmp_path: Path) -> None:
    whole = np.arange(30, dtype=np.float32).reshape(5, 6)
    for i, (rows, columns) in enumerate([((0, 2), (0, 6)), ((2, 5), (0, 1)), ((2, 5), (1, 6)), ((5, 5), (0, 6))]):
        part = whole[rows[0] : rows[1], columns[0] : columns[1]]
        place = {"x": {"saved_offsets": [rows[0], columns[0]]}}
        write_part(tmp_path / f"{i}.safetensors", {"x": np.ascontiguousarray(part)}, place)
    (tensor,) = open_sharded(tmp_path).values()
    assert (tensor.shape, tensor.dtype) == ((5, 6), "float32")
    assert np.array_equal(tensor.read(), whole)
    (tmp_path / "1.safetensors").unlink()
    with pytest.raises(CheckpointError, match="parts of the weight 'x' are missing"):
        open_sharded(tmp_path)


@pytest.mark.parametrize(
    "places", [{}, [], {"x": 3}, {"x": {"saved_offsets": [0]}}, {"x": {"saved_offsets": ["a", 0]}}]
)
def test_places_that_make_no_sense_are_refused(places: Any, tmp_path: Path) -> None:
    write_part(tmp_path / "0.safetensors", {"x": np.zeros((2, 2), np.float32)}, places)
    with pytest.raises(CheckpointError, match="does not say of which part of 'x'"):
        open_sharded(tmp_path)
