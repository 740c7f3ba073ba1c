"""Data is compared with its checksums before anything is trained on it, whatever its size."""

import errno
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ranks import run_ranks

from gpt2spec.byte_progress import ByteProgress
from gpt2spec.cli.main import main
from gpt2spec.data import PrepareOptions, prepare
from gpt2spec.data.dataset import Checksum
from gpt2spec.errors import DataError
from gpt2spec.files import sha256_of_file
from gpt2spec.tokenizer import byte_tokenizer
from gpt2spec.training.loop import train
from gpt2spec.training.settings import RunSettings

QUICK = ["--preset", "test", "--context", "8", "--batch-size", "2", "--steps", "2", "--sample-tokens", "0"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A prepared folder with six shards."""
    (tmp_path / "x.txt").write_text("".join(f"line {n} of the text\n" for n in range(260)))
    prepare([tmp_path / "x.txt"], tmp_path / "data", PrepareOptions(shard_tokens=1000), tokenizer=byte_tokenizer())
    assert len(list((tmp_path / "data").glob("*.bin"))) == 6
    return tmp_path / "data"


def damage(shard: Path) -> None:
    """Replace a token by another one of the vocabulary."""
    data = bytearray(shard.read_bytes())
    data[-2] ^= 1
    shard.write_bytes(data)


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main([*map(str, arguments)])
    return code, capsys.readouterr().err


def test_damaged_data_is_not_trained_on(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(folder / "train_000003.bin")
    code, error = command(capsys, "train", folder, *QUICK, "--out", tmp_path / "run")
    assert code == 2 and error.count("\n") == 1
    assert "train_000003.bin is damaged: its SHA-256 is" in error and "prepare the folder again" in error
    assert not (tmp_path / "run").exists()


def test_nor_as_part_of_a_mixture(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "y.txt").write_text("some other text\n" * 50)
    prepare([tmp_path / "y.txt"], tmp_path / "other", tokenizer=byte_tokenizer())
    damage(folder / "val_000000.bin")
    sets = [f"{tmp_path / 'other'}:3", f"{folder}:1"]
    code, error = command(capsys, "train", *sets, *QUICK, "--out", tmp_path / "run")
    assert code == 2 and "val_000000.bin is damaged" in error


def test_a_set_that_is_mixed_twice_is_read_once(folder: Path) -> None:
    from gpt2spec.data.mixed_dataset import open_mixture

    assert len(open_mixture([str(folder), str(folder)]).checksums) == 6


def test_it_can_be_left_out(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(folder / "train_000000.bin")
    out = ("--out", tmp_path / "run")
    assert command(capsys, "train", folder, *QUICK, *out, "--no-verify-data")[0] == 0
    assert "verify_data = false" in (tmp_path / "run" / "config.toml").read_text()
    assert command(capsys, "train", *out, "--resume", "--steps", 3)[0] == 0
    code, error = command(capsys, "train", *out, "--resume", "--steps", 4, "--set", "verify_data=true")
    assert code == 2 and "train_000000.bin is damaged" in error


def test_a_damaged_cache_of_raw_text_says_what_to_remove(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "x.txt").write_text("some text\n" * 50)
    begin = ("train", tmp_path / "x.txt", *QUICK)
    assert command(capsys, *begin, "--out", tmp_path / "one")[0] == 0
    (shard,) = (tmp_path / "cache").rglob("train_000000.bin")
    damage(shard)
    code, error = command(capsys, *begin, "--out", tmp_path / "two")
    assert code == 2 and f"remove the folder {shard.parent}" in error


def test_a_shard_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the shard .*gone: No such file"):
        Checksum(tmp_path / "gone", "0", "").verify()


def test_progress_counts_every_byte(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = folder / "train_000000.bin"
    with ByteProgress("verifying", shard.stat().st_size) as progress:
        progress.start = progress.last_line = time.monotonic() - 11
        assert sha256_of_file(shard, progress.add) == sha256_of_file(shard)
    assert progress.done == shard.stat().st_size
    assert capsys.readouterr().err == "verifying  0/0 MB  0 MB/s  ETA 00:00\n"


def test_progress_on_a_full_disk_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: False, write=fail, flush=fail))
    with ByteProgress("verifying", 2) as progress:
        progress.last_line = time.monotonic() - 11
        progress.add(1)
    assert progress.done == 1


def test_processes_share_the_shards_and_damage_ends_all(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    settings = RunSettings(
        data=str(folder), preset="test", context=8, batch_size=2, steps=2, eval_every=2, checkpoint_every=2,
        sample_tokens=0, backend="torch", backend_options={"compile": False},
    )  # fmt: skip
    one, other = run_ranks(2, verified, settings, tmp_path / "run")
    assert sorted(one + other) == sorted(path.name for path in folder.glob("*.bin"))
    assert abs(len(one) - len(other)) <= 1
    damage(folder / "train_000001.bin")  # of the second process, in the first round
    found = run_ranks(2, verified, settings, tmp_path / "damaged")
    assert found[0][0] == "BackendError" and "ends with another one" in found[0][1]
    assert found[1][0] == "DataError" and "train_000001.bin is damaged" in found[1][1]
    assert not (tmp_path / "damaged").exists()


def verified(settings: RunSettings, out: Path) -> list[str]:
    """The names of the shards that this process has compared."""
    names: list[str] = []
    verify = Checksum.verify

    def noted(self: Checksum, *args: Any) -> None:
        names.append(self.path.name)
        verify(self, *args)

    Checksum.verify = noted  # type: ignore[method-assign]
    train(settings, out, quiet=True)
    return names
