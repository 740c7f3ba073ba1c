"""Checkpoints of every format keep their tokenizer; `--tokenizer` names it where a checkpoint does not record it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from checkpoint_models import CONFIG, random_parameters, write

from gpt2spec.checkpoints.convert import convert
from gpt2spec.checkpoints.native import TrainingState, save_checkpoint
from gpt2spec.checkpoints.opening import open_checkpoint
from gpt2spec.checkpoints.tokenizers import tokenizer_in, tokenizer_of
from gpt2spec.errors import CheckpointError, ConfigError
from gpt2spec.tokenizer import (
    Tokenizer,
    byte_tokenizer,
    gpt2_tokenizer,
    train_tokenizer,
    write_tokenizer,
)

PROSE = "".join(f"The {i}th line isn't like the other {i % 7} lines.\n" for i in range(400))
TINY = ("--steps", 1, "--batch-size", 2, "--sample-tokens", 0, "--quiet", "--set", "eval_windows=2")
LEARNED = CONFIG.replace(vocab_size=300)
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def mine() -> Tokenizer:
    return train_tokenizer([[PROSE]], 300)


@pytest.fixture
def folder(tmp_path: Path, mine: Tokenizer) -> Path:
    """A folder with only the tokenizer."""
    (tmp_path / "mine").mkdir()
    write_tokenizer(tmp_path / "mine", mine)
    return tmp_path / "mine"


@pytest.fixture
def run(tmp_path: Path, mine: Tokenizer) -> Path:
    """A run that was trained with this tokenizer."""
    params = random_parameters(LEARNED)
    save_checkpoint(
        tmp_path / "run", LEARNED, params, TrainingState(params, params, {"step": 1, "tokenizer": mine.id}), mine
    )
    return tmp_path / "run"


def generate(command: Command, path: Path, *more: object) -> tuple[int, str, str]:
    return command("generate", "--checkpoint", path, "--prompt", "The", "--max-new-tokens", 3, "--quiet", *more)


def as_llmc(run: Path, path: Path) -> Path:
    convert(open_checkpoint(run), path, "llmc")
    return path


@pytest.mark.parametrize("tokenizer", [gpt2_tokenizer(), byte_tokenizer()], ids=["gpt2", "bytes"])
def test_transformers_makes_the_same_tokenizer(tmp_path: Path, tokenizer: Tokenizer) -> None:
    reader = replace(open_checkpoint(write(tmp_path / "run", "ours", random_parameters())), tokenizer=tokenizer.id)
    convert(reader, tmp_path / "hf", "hf")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    text = "Hello  world, it's 2019 …\n\tdéjà vu"
    assert theirs(text)["input_ids"] == tokenizer.encode(text)
    assert theirs.eos_token_id == tokenizer.end_of_text
    theirs.save_pretrained(tmp_path / "theirs")
    for name in ("hf", "theirs"):
        assert tokenizer_in(tmp_path / name) == tokenizer.id


def test_another_tokenizer_of_the_same_size_is_not_taken_for_ours(tmp_path: Path) -> None:
    config = CONFIG.replace(vocab_size=257)
    folder = write(tmp_path / "hf", "hf", random_parameters(config), config)
    assert tokenizer_of(open_checkpoint(folder)).id == byte_tokenizer().id
    write_tokenizer(folder, train_tokenizer([["banana"]], 258))
    with pytest.raises(CheckpointError, match=r"has 257 tokens, too few for its tokenizer bpe-\w+, which has 258"):
        tokenizer_of(open_checkpoint(folder))
    for text in ("{}", "[]", '{"model": 3}', '{"model": {"type": "BPE"}}', "{", "[" * 100_000):
        (folder / "tokenizer.json").write_text(text)
        with pytest.raises(ConfigError, match=r"tokenizer.json (has no merges|is no tokenizer of GPT-2|is damaged)"):
            tokenizer_of(open_checkpoint(folder))


def test_the_tokenizer_is_carried_along_or_known_by_its_size(tmp_path: Path) -> None:
    config = CONFIG.replace(vocab_size=257)
    reader = open_checkpoint(write(tmp_path / "run", "ours", random_parameters(config), config))
    assert reader.tokenizer is None and tokenizer_of(reader).id == byte_tokenizer().id
    whole = CONFIG.replace(vocab_size=gpt2_tokenizer().vocab_size)
    reader = open_checkpoint(write(tmp_path / "whole", "ours", random_parameters(whole), whole))
    named = replace(reader, tokenizer=gpt2_tokenizer().id)
    for target in ("hf", "nanogpt"):
        convert(named, tmp_path / target, target)
        assert tokenizer_of(open_checkpoint(tmp_path / target)).id == gpt2_tokenizer().id
    with pytest.raises(CheckpointError, match=r"does not say which tokenizer .* has 61 tokens"):
        tokenizer_of(replace(reader, config=CONFIG))


@pytest.mark.parametrize("chain", [["nanogpt"], ["hf"], ["nanogpt", "hf"], ["hf", "nanogpt"], ["nanogpt", "nanogpt"]])
def test_a_learned_one_goes_along_wherever_there_is_a_place(
    run: Path, tmp_path: Path, mine: Tokenizer, command: Command, chain: list[str]
) -> None:
    expected, path = generate(command, run), run
    for number, target in enumerate(chain):
        code, out, _ = command("convert", path, tmp_path / f"{number}.pt", "--to", target, "--verify")
        assert code == 0 and "no place for the tokenizer" not in out and "does not go along" not in out
        path = tmp_path / f"{number}.pt"
    shutil.rmtree(run)
    (tmp_path / "elsewhere").mkdir()
    path = path.rename(tmp_path / "elsewhere" / "moved.pt")
    assert expected[0] == 0 and generate(command, path) == expected
    assert tokenizer_of(open_checkpoint(path)).merges == mine.merges


def test_a_file_of_nanogpt_has_it_as_plain_text(run: Path, tmp_path: Path, mine: Tokenizer) -> None:
    convert(open_checkpoint(run), tmp_path / "x.pt", "nanogpt")
    config = torch.load(tmp_path / "x.pt", weights_only=True)["config"]
    assert config == {"tokenizer": mine.id, "merges": mine.merges.decode()}
    assert all(type(each) is str for pair in config.items() for each in pair)
    known = replace(open_checkpoint(run), tokenizer=byte_tokenizer().id)
    convert(known, tmp_path / "bytes.pt", "nanogpt")
    assert torch.load(tmp_path / "bytes.pt", weights_only=True)["config"] == {"tokenizer": byte_tokenizer().id}


def test_damaged_or_exchanged_merges_are_refused(run: Path, tmp_path: Path, mine: Tokenizer, command: Command) -> None:
    convert(open_checkpoint(run), tmp_path / "good.pt", "nanogpt")
    contents: dict[str, Any] = torch.load(tmp_path / "good.pt", weights_only=True)
    text = mine.merges.decode()
    for merges, message in (
        (text.replace("\n", "\nx", 2), "line 2 of the merges in"),
        (text[: len(text) // 2], "it was exchanged|not two tokens"),
        (train_tokenizer([[PROSE]], 280).merges.decode(), f"{mine.id} was used: it was exchanged"),
        ("", "is no list of merges"),
        (3, "is damaged: the merges of its tokenizer are no text but int"),
    ):
        torch.save(contents | {"config": {"tokenizer": mine.id, "merges": merges}}, tmp_path / "bad.pt")
        code, _, err = generate(command, tmp_path / "bad.pt")
        assert code == 2 and err.count("\n") == 1
        with pytest.raises((CheckpointError, ConfigError), match=message):
            tokenizer_of(open_checkpoint(tmp_path / "bad.pt"))
        assert command("convert", tmp_path / "bad.pt", tmp_path / "hf", "--to", "hf")[0] == 2
        assert not (tmp_path / "hf").exists()
    torch.save(contents | {"config": {"tokenizer": mine.id}}, tmp_path / "bad.pt")
    assert "does not hold it" in generate(command, tmp_path / "bad.pt")[2]


def test_llmc_has_no_place_for_it_and_the_option_names_it(
    run: Path, tmp_path: Path, folder: Path, command: Command
) -> None:
    expected = generate(command, run)
    code, out, _ = command("convert", run, tmp_path / "x.bin", "--to", "llmc")
    assert code == 0 and "Note: llm.c's files have no place for the tokenizer, bpe-" in out and "--tokenizer" in out
    path = tmp_path / "x.bin"
    code, _, err = generate(command, path)
    assert code == 2 and "does not say which tokenizer" in err and "300 tokens: name it with --tokenizer" in err
    assert generate(command, path, "--tokenizer", folder) == expected
    assert command("tokenize", "--checkpoint", path, "--tokenizer", folder, "--count", "The line")[1] == "2\n"
    assert command("convert", path, tmp_path / "hf", "--to", "hf", "--tokenizer", folder)[0] == 0
    assert generate(command, tmp_path / "hf") == expected


def test_what_a_known_tokenizer_s_size_says_needs_no_note(tmp_path: Path, command: Command) -> None:
    config = CONFIG.replace(vocab_size=257)
    reader = open_checkpoint(write(tmp_path / "run", "ours", random_parameters(config), config))
    convert(replace(reader, tokenizer=byte_tokenizer().id), tmp_path / "hf", "hf")
    assert "Note" not in command("convert", tmp_path / "hf", tmp_path / "x.bin", "--to", "llmc")[1]
    assert command("tokenize", "--checkpoint", tmp_path / "x.bin", "--count", "The")[1] == "3\n"


def test_another_than_the_recorded_one_is_refused(run: Path, folder: Path, tmp_path: Path, command: Command) -> None:
    for path in (run, write(tmp_path / "x.pt", "nanogpt", random_parameters(LEARNED), LEARNED)):
        assert generate(command, path, "--tokenizer", folder)[0] == 0
    code, _, err = generate(command, run, "--tokenizer", "bytes")
    assert code == 2 and "was trained with the tokenizer bpe-" in err and "not with bytes, which is bytes-" in err
    given: tuple[list[object], ...] = (
        ["tokenize", "The", "--checkpoint", run],
        ["eval", "wikitext-2", "--data", "none", "--checkpoint", run],
        ["convert", run, tmp_path / "hf", "--to", "hf"],
    )
    for arguments in given:
        assert "not with gpt2, which is gpt2-" in command(*arguments, "--tokenizer", "gpt2")[2]
    small = write(tmp_path / "small.bin", "llmc", random_parameters(CONFIG))
    code, _, err = generate(command, small, "--tokenizer", "bytes")
    assert code == 2 and "has 61 tokens, too few for its tokenizer bytes-" in err
    assert "no tokenizer 'byte' (did you mean 'bytes'?)" in generate(command, small, "--tokenizer", "byte")[2]


def test_an_unknown_tokenizer_of_token_files_can_be_named(
    tmp_path: Path, folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    params = random_parameters(LEARNED)
    state = TrainingState(params, params, {"step": 1, "tokenizer": "unknown"})
    save_checkpoint(tmp_path / "run", LEARNED, params, state)
    assert "name it with --tokenizer" in generate(command, tmp_path / "run")[2]
    assert generate(command, tmp_path / "run", "--tokenizer", folder)[0] == 0
    code, out, _ = command("convert", tmp_path / "run", tmp_path / "hf", "--to", "hf")
    assert code == 0 and "Note: the tokenizer does not go along: nobody says which it is." in out
    assert generate(command, tmp_path / "hf", "--tokenizer", folder)[0] == 0
    (tmp_path / "a.txt").write_text(PROSE)
    begun = (
        "train",
        tmp_path / "a.txt",
        "--init-from",
        tmp_path / "run",
        "--tokenizer",
        folder,
        "--out",
        tmp_path / "out",
    )
    assert command(*begun, *TINY)[0] == 0
    config = CONFIG.replace(vocab_size=257)  # the size of bytes, whose ids they need not be
    params = random_parameters(config)
    save_checkpoint(tmp_path / "small", config, params, replace(state, m=params, v=params))
    assert "name it with --tokenizer" in generate(command, tmp_path / "small")[2]


def test_training_goes_on_with_the_tokenizer_of_the_first_weights(
    run: Path, folder: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, mine: Tokenizer
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "a.txt").write_text(PROSE)
    convert(open_checkpoint(run), tmp_path / "x.pt", "nanogpt")
    as_llmc(run, tmp_path / "x.bin")
    for number, more in enumerate((["x.pt"], ["x.bin", "--tokenizer", folder], ["x.pt", "--tokenizer", folder])):
        begun = ("train", tmp_path / "a.txt", "--init-from", tmp_path / more[0], *more[1:])
        assert command(*begun, "--out", tmp_path / f"out{number}", *TINY)[0] == 0
        assert tokenizer_of(open_checkpoint(tmp_path / f"out{number}")).id == mine.id
    begun = ("train", tmp_path / "a.txt", "--init-from", tmp_path / "x.bin")  # for which bytes would be small enough
    code, _, err = command(*begun, "--out", tmp_path / "out", *TINY)
    assert code == 2 and "300 tokens: name it with --tokenizer" in err and not (tmp_path / "out").exists()
    assert command("data", "prepare", tmp_path / "a.txt", "--tokenizer", folder, "--out", tmp_path / "prepared")[0] == 0
    begun = ("train", tmp_path / "prepared", "--init-from", tmp_path / "x.bin")  # which says it
    assert command(*begun, "--out", tmp_path / "out3", *TINY)[0] == 0
    begun = ("train", tmp_path / "a.txt", "--init-from", tmp_path / "x.pt", "--tokenizer", "bytes")
    code, _, err = command(*begun, "--out", tmp_path / "out", *TINY)
    assert code == 2 and "x.pt in bpe-" in err


def test_weights_with_a_tokenizer_of_another_kind_can_be_read_but_not_fed(
    run: Path, tmp_path: Path, command: Command
) -> None:
    reader = open_checkpoint(run)
    convert(replace(reader, tokenizer=None), tmp_path / "hf", "hf")
    (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    (tmp_path / "hf" / "vocab.txt").write_text("[UNK]")
    assert open_checkpoint(tmp_path / "hf").params().keys() == reader.params().keys()
    for more in ([], ["--tokenizer", "bytes"]):
        code, _, err = generate(command, tmp_path / "hf", *more)
        assert code == 2 and "tokenizer_class is 'BertTokenizer', GPT-2 has 'GPT2Tokenizer'" in err
    code, out, _ = command("convert", tmp_path / "hf", tmp_path / "x.pt", "--to", "nanogpt")
    assert code == 0 and "Note: the tokenizer does not go along: " in out and "BertTokenizer" in out
    assert generate(command, tmp_path / "x.pt")[0] == 2
    (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 24}))
    assert open_checkpoint(tmp_path / "hf").tokenizer is None


def test_a_fine_tuned_model_with_a_token_more_reads_gpt2_s(tmp_path: Path) -> None:
    config = CONFIG.replace(vocab_size=50258)
    write(tmp_path / "hf", "hf", random_parameters(config), config)
    (tmp_path / "plain").mkdir()
    write_tokenizer(tmp_path / "plain", gpt2_tokenizer())
    theirs = transformers.GPT2TokenizerFast.from_pretrained(tmp_path / "plain")
    theirs.add_special_tokens({"pad_token": "[PAD]"})
    theirs.save_pretrained(tmp_path / "hf")
    ours = tokenizer_of(open_checkpoint(tmp_path / "hf"))
    assert ours.id == gpt2_tokenizer().id and theirs(PROSE)["input_ids"] == ours.encode(PROSE)


def test_a_sample_of_a_model_with_more_ids_than_its_tokenizer_can_be_read(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(PROSE)
    sizes = ("--preset", "test", "--set", "model.vocab_size=4000", "--sample-every", 1, "--sample-tokens", 8)
    code, out, _ = command("train", "a.txt", "--tokenizer", "bytes", *sizes, "--steps", 1, "--out", "run", "--quiet")
    assert code == 0 and "\ufffd" in out
    assert "\ufffd" in json.loads((tmp_path / "run" / "samples.jsonl").read_text())["text"]
