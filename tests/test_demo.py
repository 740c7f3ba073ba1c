"""The model that comes with the package has learned something."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpt2spec
from gpt2spec.checkpoints.opening import DEMO, open_checkpoint
from gpt2spec.checkpoints.tokenizers import tokenizer_of
from gpt2spec.cli.main import main
from gpt2spec.config import GPT2Config
from gpt2spec.errors import CheckpointError

PROSE = (
    "The old gentleman looked at the fire for some time without speaking. At last he rose, took his hat from the "
    "table, and went to the door. 'My dear,' said he, 'I shall not be late. You must not sit up for me.'"
)


def test_it_is_small() -> None:
    files = [path for path in DEMO.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 5_000_000
    assert open_checkpoint("demo").config == GPT2Config(
        n_layer=8, n_head=4, n_embd=128, n_ctx=256, vocab_size=4096, dropout=0.0
    )


def test_it_knows_how_novels_read() -> None:
    """It is far better than guessing by frequency, 6.55 nats a token, and the order of words matters to it."""
    reader = open_checkpoint("demo")
    ids = np.array([tokenizer_of(reader).encode(PROSE)])
    config, params, numpy = reader.config, reader.params(), gpt2spec.load_backend("numpy")

    def loss(ids: np.ndarray) -> float:
        return gpt2spec.loss_and_gradients(numpy, config, params, ids[:, :-1], ids[:, 1:])[0]

    assert loss(ids) < 3.5
    assert loss(ids[:, ::-1]) > loss(ids) + 2.0


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "--checkpoint", "demo", "--prompt", "Once", "--max-new-tokens", "3"],
        ["info", "--checkpoint", "demo"],
        ["tokenize", "--checkpoint", "demo", "a word"],
        ["convert", "demo", "converted", "--to", "hf"],
        ["train", "--init-from", "demo", "--tokenizer", str(DEMO), "--steps", "1", "--context", "8", "--out", "run"],
        ["train", "--out", "run", "--resume", "--steps", "2"],
    ],
    ids=" ".join,
)
def test_commands_take_it_by_name(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "demo"  # no model, but where the runs are
    folder.mkdir(exist_ok=True)
    ran = subprocess.run([sys.executable, "-m", "gpt2spec", *command], cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_a_file_of_that_name_is_meant_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["info", "--checkpoint", "demo"]) == 0
    (tmp_path / "demo").mkdir()
    with pytest.raises(CheckpointError, match="demo holds no checkpoint"):
        open_checkpoint("demo")
    assert main(["info", "--checkpoint", "demo"]) == 2
    assert "demo holds no checkpoint" in capsys.readouterr().err


def test_other_names_are_not_looked_for_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("Demo", "x/demo", str(tmp_path / "demo")):
        with pytest.raises(CheckpointError, match="there is no run directory or checkpoint"):
            open_checkpoint(name)
