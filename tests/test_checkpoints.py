import json
import os
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from kills import KILLS, victims

import gpt2spec
from gpt2spec.checkpoints.huggingface import config_from_json, config_to_json
from gpt2spec.checkpoints.native import TrainingState, checkpoint_folder, checkpoint_steps, open_native, save_checkpoint
from gpt2spec.checkpoints.opening import open_checkpoint
from gpt2spec.config import PRESETS, GPT2Config
from gpt2spec.errors import CheckpointError, StorageError
from gpt2spec.files import atomic_folder, atomic_write
from gpt2spec.parameters import HostParams, initial_parameters

CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=16, n_ctx=24, vocab_size=61)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save(tmp_path, 3)


def save(run: Path, step: int) -> Path:
    params = initial_parameters(CONFIG, step)
    return save_checkpoint(run, CONFIG, params, TrainingState(params, params, {"step": step}))


def random_parameters() -> HostParams:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(x.shape, np.float32) for name, x in initial_parameters(CONFIG).items()}


def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    params, m, v = random_parameters(), random_parameters(), random_parameters()
    m["wte.weight"] += 1
    folder = save_checkpoint(tmp_path, CONFIG, params, TrainingState(m, v, {"step": 7, "more": [1, 2]}))
    config, loaded = open_native(folder).config, open_native(folder).params()
    training = open_native(folder).training()
    assert config == CONFIG
    assert list(loaded) == list(params)
    for before, after in ((params, loaded), (m, training.m), (v, training.v)):
        assert all(np.array_equal(before[name], after[name]) for name in before)
    assert training.progress == {"step": 7, "more": [1, 2]}


def test_transformers_loads_it_and_computes_the_same(tmp_path: Path) -> None:
    params = random_parameters()
    folder = save_checkpoint(tmp_path, CONFIG, params, TrainingState(params, params, {"step": 1}))
    model, report = transformers.GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    tokens = np.random.default_rng(1).integers(0, 61, (2, 24))
    with torch.no_grad():
        theirs = model.double().eval()(torch.tensor(tokens)).logits.numpy()
    ours = gpt2spec.logits(gpt2spec.load_backend("numpy", dtype="float64"), CONFIG, params, tokens)
    assert np.abs(ours - theirs).max() < 1e-10 * np.abs(theirs).max()


@pytest.mark.parametrize("name", PRESETS)
def test_config_json_round_trip(tmp_path: Path, name: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config_to_json(PRESETS[name])))
    assert config_from_json(path) == PRESETS[name]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("activation_function", "gelu"),
        ("scale_attn_by_inverse_layer_idx", True),
        ("model_type", "llama"),
        ("n_inner", 3),
    ],
)
def test_a_config_that_is_not_gpt2_is_refused_by_name(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config_to_json(CONFIG) | {key: value}))
    with pytest.raises(CheckpointError, match=key):
        config_from_json(path)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "optimizer.safetensors", "state.json", "SHA256SUMS"]
)
def test_an_altered_truncated_or_missing_file_is_refused(saved: Path, name: str) -> None:
    path = saved / name
    original = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = bytearray(original)
    damaged[int(rng.integers(len(original) - 1))] ^= 1 << int(rng.integers(7))
    for content in (bytes(damaged), original[: len(original) // 2], b""):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged"):
            open_native(saved).verify()
    path.unlink()
    with pytest.raises(CheckpointError, match=f"damaged: {name}"):
        open_native(saved).verify()
    path.write_bytes(original)
    open_native(saved).verify()


def test_weights_that_do_not_fit_the_config_are_named(saved: Path) -> None:
    from safetensors.numpy import load_file, save_file

    from gpt2spec.files import sha256_of_file

    params = load_file(saved / "model.safetensors")
    params["wpe.weight"] = params["wpe.weight"][:-1].copy()
    save_file(params, saved / "model.safetensors", metadata={"format": "pt"})
    sums = [f"{sha256_of_file(saved / name)}  {name}\n" for name in ("model.safetensors", "config.json", "state.json")]
    (saved / "SHA256SUMS").write_text("".join(sums))
    with pytest.raises(CheckpointError, match=r"'wpe.weight' has shape \[23, 16\]; \[24, 16\] is expected"):
        open_native(saved).params()


def test_finding_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run directory"):
        open_checkpoint(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        open_checkpoint(tmp_path)
    folders = {step: save(tmp_path, step) for step in (2, 10)}
    assert open_checkpoint(tmp_path).path == folders[10]
    assert open_checkpoint(tmp_path, 2).path == folders[2]
    assert open_checkpoint(folders[2]).path == folders[2]
    with pytest.raises(CheckpointError, match="it has 2, 10"):
        open_checkpoint(tmp_path, 3)


def test_a_save_that_fails_leaves_the_others_and_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # as a full disk: writing fails half way
    try:
        with pytest.raises(StorageError, match="cannot write"):
            save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    open_native(checkpoint_folder(tmp_path, 1)).verify()


def test_replacing_a_checkpoint_fails_without_losing_the_old_one(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    before = (folder / "SHA256SUMS").read_text()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(StorageError, match="cannot write"):
            save(tmp_path, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    open_native(folder).verify()
    assert (folder / "SHA256SUMS").read_text() == before
    assert save(tmp_path, 1) == folder
    open_native(folder).verify()


def save_again_and_again(run: str) -> None:
    for step in range(1, 10_000):
        save(Path(run), step)


def test_a_save_killed_at_any_moment_leaves_only_whole_checkpoints(tmp_path: Path) -> None:
    with victims(tmp_path, "test_checkpoints") as processes:
        for i, moment in enumerate(np.random.default_rng(0).uniform(0.0, 0.2, KILLS)):
            run = tmp_path / str(i)
            code = processes.run("test_checkpoints", "save_again_and_again", run, until=float(moment))
            assert code == -signal.SIGKILL, processes.errors
            for step in checkpoint_steps(run):
                open_native(checkpoint_folder(run, step)).verify()


def test_atomic_writes_replace_whole_files_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    with atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_atomic_folders_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "folder") as folder:
        (folder / "a").write_text("x")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == []
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "a").write_text("x")
    assert (tmp_path / "folder" / "a").read_text() == "x"
    with pytest.raises(StorageError, match="cannot write"), atomic_folder(tmp_path / "folder") as folder:
        (folder / "b").write_text("y")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("at_once", [True, False], ids=["exchanged", "where the system cannot"])
def test_a_folder_is_replaced_only_when_the_new_one_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    """Whenever a file or folder is synced, and whenever something is removed, one of the two has the name."""
    target = tmp_path / "target"
    with atomic_folder(target) as folder:
        (folder / "a").write_text("old")
    seen: list[str] = []

    def watched(call: Any) -> Any:
        def watch(*args: Any, **options: Any) -> Any:
            seen.append((target / "a").read_text())
            return call(*args, **options)

        return watch

    if not at_once:
        monkeypatch.setattr("ctypes.CDLL", lambda *args, **options: None)
    monkeypatch.setattr("os.fsync", watched(os.fsync))
    monkeypatch.setattr("shutil.rmtree", watched(shutil.rmtree))
    with atomic_folder(target, replace=True) as folder:
        (folder / "a").write_text("new")
    assert seen == sorted(seen, reverse=True) and {*seen} == {"old", "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["target"] and seen[-1] == "new"


@pytest.mark.parametrize("names", [(".target.aside.tmp", "target"), (".target.aside.tmp",)], ids=" and ".join)
def test_a_folder_is_written_where_one_was_left_between_two_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    """A process that was killed while it exchanged two folders, one after the other, leaves the old one aside."""
    monkeypatch.setattr("ctypes.CDLL", lambda *args, **options: None)
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text("old")
    with atomic_folder(tmp_path / "target", replace=True) as folder:
        (folder / "a").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert (tmp_path / "target" / "a").read_text() == "new"


def test_files_of_a_folder_have_the_permissions_of_new_ones(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "private").touch(0o600)
    assert (tmp_path / "folder" / "private").stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_what_a_killed_process_left_is_removed_by_the_next_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    (tmp_path / ".target.0123abcd.tmp").mkdir()
    (tmp_path / ".target.0123abcd.tmp" / "model").write_text("half")
    (tmp_path / ".target.4567abcd.tmp").write_text("half")
    (tmp_path / ".other.0123abcd.tmp").write_text("somebody else's")
    with atomic_folder(tmp_path / "target") as folder, atomic_write(tmp_path / "file") as file:
        with atomic_folder(tmp_path / "target", replace=True), atomic_write(tmp_path / "file") as other:
            other.write(b"first")
        (folder / "b").write_text("x")
        file.write(b"second")
        (tmp_path / "target").rmdir()
    assert {path.name for path in tmp_path.iterdir()} == {"target", "file", ".other.0123abcd.tmp"}
    assert (tmp_path / "file").read_bytes() == b"second" and (tmp_path / "target" / "b").exists()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
