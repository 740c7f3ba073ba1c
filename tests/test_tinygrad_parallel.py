"""A run of tinygrad on two devices has the curve of one device, and the same bits when it is resumed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2spec.checkpoints.native import checkpoint_folder
from gpt2spec.errors import BackendError
from gpt2spec.plugins import load_backend
from gpt2spec.training.loop import train
from gpt2spec.training.run_directory import read_metrics
from gpt2spec.training.settings import RunSettings

pytest.importorskip("tinygrad")

TEXT = "".join(f"{n} squared is {n * n}; {n} times {n + 1} is {n * (n + 1)}.\n" for n in range(300))
TWO: dict[str, Any] = {"parallel": "data", "backend_options": {"devices": 2}}


def losses(run: Path) -> np.ndarray:
    return np.array([[line["loss"], line["grad_norm"]] for line in read_metrics(run)])


def test_two_devices_have_the_curve_of_one_and_resume_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "squares.txt").write_text(TEXT)
    values: dict[str, Any] = {"data": str(tmp_path / "squares.txt"), "preset": "test", "context": 16, "batch_size": 4}
    values |= {"backend": "tinygrad", "device": "CPU", "steps": 30, "lr": 1e-3, "dropout": 0.1}
    values |= {"eval_every": 30, "eval_windows": 4, "checkpoint_every": 15, "sample_tokens": 0}
    train(RunSettings(**values), tmp_path / "one", quiet=True)
    train(RunSettings(**values, **TWO), tmp_path / "two", quiet=True)
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5)
    before, sums = losses(tmp_path / "two"), checkpoint_folder(tmp_path / "two", 30) / "SHA256SUMS"
    expected = sums.read_text()
    train(RunSettings(**values, **TWO), tmp_path / "two", resume=True, at=15, quiet=True)
    assert np.array_equal(losses(tmp_path / "two"), before)
    assert sums.read_text() == expected


def test_rows_are_divided_and_all_else_is_on_each_device() -> None:
    backend = load_backend("tinygrad", device="CPU", **TWO["backend_options"], parallel="data")
    rows = backend.put_rows(np.arange(8, dtype=np.int32).reshape(4, 2))
    assert [x.shape for x in (rows, backend.put(np.zeros(3)))] == [(4, 2), (3,)]
    assert rows.device == ("CPU", "CPU:1") and rows.uop.axis == 0
    assert backend.put(np.zeros(3)).uop.axis is None
    assert backend.row_shares == 2 and np.array_equal(backend.to_numpy(rows), np.arange(8).reshape(4, 2))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"parallel": "sharded", "devices": 2}, "in parallel as data, not as 'sharded'"),
        ({"devices": 2}, "in parallel as data, not as None"),
        ({"parallel": "data"}, "give --backend-option devices=N, at least 2, not None"),
        ({"parallel": "data", "devices": "many"}, "at least 2, not 'many'"),
    ],
)
def test_what_tinygrad_does_not_do_in_parallel_is_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(BackendError, match=words):
        load_backend("tinygrad", device="CPU", **options)
