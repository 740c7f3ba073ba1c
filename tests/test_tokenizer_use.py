"""A learned tokenizer is copied into prepared folders, runs and checkpoints, where every command finds it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpt2spec.checkpoints.opening import open_checkpoint
from gpt2spec.cli.main import main
from gpt2spec.data import open_prepared
from gpt2spec.tokenizer import Tokenizer, read_tokenizer, train_tokenizer, write_tokenizer

PROSE = "".join(f"The {i}th line isn't like the other {i % 7} lines.\n" for i in range(400))
TINY = ["--preset", "test", "--steps", "2", "--sample-tokens", "4", "--quiet", "--set", "eval_windows=2"]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, two tokenizers learned from it, data prepared with one, and a run on that data."""
    folder = tmp_path_factory.mktemp("learned")
    (folder / "a.txt").write_text(PROSE, encoding="utf-8")
    for name, size in (("mine", 300), ("other", 290)):
        (folder / name).mkdir()
        write_tokenizer(folder / name, train_tokenizer([[PROSE]], size))
    prepare = ["data", "prepare", str(folder / "a.txt"), "--tokenizer", str(folder / "mine")]
    assert main([*prepare, "--out", str(folder / "prepared")]) == 0
    assert main(["train", str(folder / "prepared"), "--out", str(folder / "run"), *TINY]) == 0
    return folder


@pytest.fixture(scope="module")
def mine(places: Path) -> Tokenizer:
    return read_tokenizer(places / "mine")


def test_a_prepared_folder_holds_its_tokenizer(places: Path, mine: Tokenizer) -> None:
    assert read_tokenizer(places / "prepared").id == mine.id
    dataset = open_prepared(places / "prepared")
    ids = np.concatenate([*dataset.train.shards, *dataset.val.shards])
    assert mine.decode(ids[ids != mine.end_of_text]) == PROSE
    again = ["data", "prepare", str(places / "a.txt"), "--tokenizer", str(places / "mine")]
    assert main([*again, "--out", str(places / "prepared")]) == 0, "its files are no strangers"


def test_a_checkpoint_holds_its_tokenizer_for_us_and_for_transformers(places: Path, mine: Tokenizer) -> None:
    from transformers import AutoTokenizer

    checkpoint = open_checkpoint(places / "run").path
    assert read_tokenizer(checkpoint).id == read_tokenizer(places / "run" / "tokenizer").id == mine.id
    assert AutoTokenizer.from_pretrained(checkpoint)(PROSE[:100])["input_ids"] == mine.encode(PROSE[:100])


def test_generate_reads_and_writes_with_it(
    places: Path, tmp_path: Path, run_generate: Callable[..., tuple[int, str, str]]
) -> None:
    alone = shutil.copytree(open_checkpoint(places / "run").path, tmp_path / "alone")  # without run, data and tokenizer
    code, output, error = run_generate(alone, "--prompt", "The 3th", "--max-new-tokens", "3")
    assert code == 0, error
    assert output.startswith("The 3th")


def test_a_tokenizer_that_does_not_match_is_refused(
    places: Path, tmp_path: Path, run_generate: Callable[..., tuple[int, str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    alone = shutil.copytree(open_checkpoint(places / "run").path, tmp_path / "alone")
    write_tokenizer(alone, read_tokenizer(places / "other"))
    code, _, error = run_generate(alone, "--prompt", "x")
    assert (code, "it was exchanged" in error) == (2, True), error
    (alone / "merges.txt").unlink()
    code, _, error = run_generate(alone, "--prompt", "x")
    assert (code, "does not hold it" in error) == (2, True), error
    command = ["train", str(places / "prepared"), "--out", str(tmp_path / "run"), *TINY]
    assert main([*command, "--tokenizer", str(places / "other")]) == 2
    assert "was prepared with bpe-" in capsys.readouterr().err
    assert main([*command, "--set", "model.vocab_size=299"]) == 2
    assert "has ids up to 299" in capsys.readouterr().err


def test_a_run_on_raw_text_keeps_its_tokenizer_and_resumes_without_the_original(
    places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(places / "mine", tmp_path / "moved")
    assert main(["train", str(places / "a.txt"), "--out", "run", "--tokenizer", "moved", *TINY]) == 0
    shutil.rmtree(tmp_path / "moved")
    assert main(["train", "--out", "run", "--resume", "--steps", "3", "--quiet"]) == 0


def test_converting_takes_it_along(places: Path, tmp_path: Path, mine: Tokenizer) -> None:
    assert main(["convert", str(places / "run"), str(tmp_path / "hf"), "--to", "hf"]) == 0
    assert read_tokenizer(tmp_path / "hf").id == mine.id
    assert main(["generate", "--checkpoint", str(tmp_path / "hf"), "--prompt", "The", "--max-new-tokens", "2"]) == 0
