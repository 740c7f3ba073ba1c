"""A Hugging Face tokenizer with our ids is accepted; for others, the error names the setting."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2TokenizerFast, PreTrainedTokenizerFast

from gpt2spec.errors import ConfigError
from gpt2spec.tokenizer import (
    Tokenizer,
    byte_tokenizer,
    gpt2_tokenizer,
    read_tokenizer,
    train_tokenizer,
    write_tokenizer,
)

PROSE = "".join(f"The {i}th line isn't like the other {i % 7} lines: naïve, 中文 and 🦙!\n\n" for i in range(60))


@pytest.fixture(scope="module")
def learned() -> Tokenizer:
    return train_tokenizer([[PROSE]], 340)


@pytest.fixture
def theirs(learned: Tokenizer, tmp_path: Path) -> GPT2TokenizerFast:
    (tmp_path / "ours").mkdir()
    write_tokenizer(tmp_path / "ours", learned)
    return GPT2TokenizerFast.from_pretrained(tmp_path / "ours")


@pytest.fixture
def folder(theirs: GPT2TokenizerFast, tmp_path: Path) -> Path:
    """A tokenizer as transformers saves it."""
    theirs.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    contents = json.loads(path.read_text())
    change(contents)
    path.write_text(json.dumps(contents))


@pytest.mark.parametrize("tokenizer", [gpt2_tokenizer(), byte_tokenizer()], ids=["gpt2", "bytes"])
def test_what_transformers_saves_is_recognised(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, tokenizer)
    GPT2TokenizerFast.from_pretrained(tmp_path).save_pretrained(tmp_path / "theirs")
    assert read_tokenizer(tmp_path / "theirs").id == tokenizer.id


def test_older_files_are_read_as_well(learned: Tokenizer, folder: Path) -> None:
    """They have merges as text, no type of the model, no `use_regex`, and added tokens listed in three files."""

    def older(contents: dict[str, Any]) -> None:
        contents["model"]["merges"] = [" ".join(pair) for pair in contents["model"]["merges"]]
        del contents["model"]["type"], contents["model"]["ignore_merges"], contents["model"]["byte_fallback"]
        del contents["pre_tokenizer"]["use_regex"]

    changed(folder / "tokenizer.json", older)
    (folder / "added_tokens.json").write_text('{"<pad>": 340}')
    decoder = {"339": {"content": "<|endoftext|>", "special": True}, "340": {"content": "<pad>"}}
    changed(folder / "tokenizer_config.json", lambda contents: contents.update(added_tokens_decoder=decoder))
    assert read_tokenizer(folder).id == learned.id
    write_tokenizer(folder, learned)  # and beside the two files of the slow one
    assert read_tokenizer(folder).id == learned.id


def test_a_general_class_is_taken_at_its_word(learned: Tokenizer, folder: Path, tmp_path: Path) -> None:
    general = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), eos_token="<|endoftext|>")
    general.save_pretrained(tmp_path / "general")
    assert read_tokenizer(tmp_path / "general").id == learned.id


def test_tokens_added_at_the_end_leave_the_ids_as_they_are(
    learned: Tokenizer, theirs: GPT2TokenizerFast, tmp_path: Path
) -> None:
    theirs.add_special_tokens({"pad_token": "[PAD]"})
    theirs.add_tokens(["<name>"])
    theirs.save_pretrained(tmp_path / "more")
    assert len(theirs) == learned.vocab_size + 2
    assert read_tokenizer(tmp_path / "more").encode(PROSE) == theirs(PROSE)["input_ids"]


@pytest.mark.parametrize(
    "part, name, value",
    [
        ("", "normalizer", {"type": "NFC"}),
        ("pre_tokenizer", "add_prefix_space", True),
        ("pre_tokenizer", "use_regex", False),
        ("pre_tokenizer", "type", "Sequence"),
        ("decoder", "type", "Metaspace"),
        ("model", "type", "WordPiece"),
        ("model", "dropout", 0.1),
        ("model", "continuing_subword_prefix", "##"),
        ("model", "end_of_word_suffix", "</w>"),
        ("model", "byte_fallback", True),
        ("model", "ignore_merges", True),
    ],
)
@pytest.mark.parametrize("merges_beside", [False, True])
def test_a_setting_of_another_kind_is_refused_by_its_name(
    learned: Tokenizer, folder: Path, part: str, name: str, value: object, merges_beside: bool
) -> None:
    if merges_beside:
        write_tokenizer(folder, learned)
    changed(folder / "tokenizer.json", lambda contents: (contents[part] if part else contents).update({name: value}))
    setting = f"{part}.{name}" if part else name
    with pytest.raises(ConfigError, match=rf"tokenizer.json is no tokenizer of GPT-2's kind: {setting} is "):
        read_tokenizer(folder)


def test_a_text_that_is_not_cut_is_refused(folder: Path) -> None:
    changed(folder / "tokenizer.json", lambda contents: contents.update(pre_tokenizer=None))
    with pytest.raises(ConfigError, match=r"pre_tokenizer.type is None, GPT-2 has 'ByteLevel'"):
        read_tokenizer(folder)


def test_a_space_put_before_texts_is_refused(learned: Tokenizer, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, learned)
    GPT2TokenizerFast.from_pretrained(tmp_path, add_prefix_space=True).save_pretrained(tmp_path / "theirs")
    with pytest.raises(ConfigError, match=r"pre_tokenizer.add_prefix_space is True, GPT-2 has False"):
        read_tokenizer(tmp_path / "theirs")
    changed(tmp_path / "tokenizer_config.json", lambda contents: contents.update(add_prefix_space=True))
    with pytest.raises(ConfigError, match=r"tokenizer_config.json .* add_prefix_space is True"):
        read_tokenizer(tmp_path)


def test_a_class_that_reads_the_same_two_files_otherwise_is_refused(learned: Tokenizer, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, learned)
    changed(tmp_path / "tokenizer_config.json", lambda contents: contents.update(tokenizer_class="Qwen2Tokenizer"))
    with pytest.raises(ConfigError, match="tokenizer_class is 'Qwen2Tokenizer', GPT-2 has 'GPT2Tokenizer'"):
        read_tokenizer(tmp_path)


def test_a_token_added_inside_the_vocabulary_is_refused(
    learned: Tokenizer, theirs: GPT2TokenizerFast, folder: Path, tmp_path: Path
) -> None:
    inside = next(token.decode() for token in learned.ranks if len(token) > 1 and token.isalpha())
    theirs.add_tokens([inside])  # a token already: it is now found before words are
    theirs.save_pretrained(tmp_path / "inside")
    assert theirs(PROSE)["input_ids"] != learned.encode(PROSE)
    with pytest.raises(ConfigError, match=r"tokenizer.json .* it adds '\w+' as token \d+; .* added from 340 on"):
        read_tokenizer(tmp_path / "inside")
    for name, contents in (
        ("tokenizer_config.json", {"added_tokens_decoder": {"65": {"content": "b"}}}),
        ("added_tokens.json", {"b": 65}),
    ):
        before = (folder / name).read_bytes() if (folder / name).exists() else b"{}"
        (folder / name).write_text(json.dumps(contents))
        with pytest.raises(ConfigError, match=f"{name} .* it adds 'b' as token 65"):
            read_tokenizer(folder)
        (folder / name).write_bytes(before)


def test_ids_in_another_order_are_refused(theirs: GPT2TokenizerFast, tmp_path: Path) -> None:
    """`train_new_from_iterator` and `ByteLevelBPETokenizer` learn tokenizers with such an order."""
    new = theirs.train_new_from_iterator([PROSE], 300)
    new.save_pretrained(tmp_path / "new")
    with pytest.raises(ConfigError, match=r"tokenizer.json .* the id of '<\|endoftext\|>' is 0, not \d+; ids are"):
        read_tokenizer(tmp_path / "new")
    new._tokenizer.model.save(str(tmp_path / "new"))  # vocab.json and merges.txt
    (tmp_path / "new" / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"vocab.json .* the id of '<\|endoftext\|>' is 0, not \d+; ids are"):
        read_tokenizer(tmp_path / "new")


def test_files_that_contradict_each_other_are_refused(learned: Tokenizer, folder: Path) -> None:
    write_tokenizer(folder, train_tokenizer([[PROSE]], 300))
    with pytest.raises(ConfigError, match=r"tokenizer.json does not belong to the merges beside it"):
        read_tokenizer(folder)
    for name in ("merges.txt", "vocab.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert read_tokenizer(folder).id == learned.id
    changed(folder / "tokenizer.json", lambda contents: contents["model"]["vocab"].update(zzz=340))
    with pytest.raises(ConfigError, match="none of them makes 'zzz'"):
        read_tokenizer(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "added_tokens.json"])
@pytest.mark.parametrize(
    "contents", ["", "[]", "3", "{", "[" * 100_000, '{"added_tokens_decoder": 3, "x": "y"}', "\xff"]
)
def test_damaged_files_are_refused_by_name(folder: Path, name: str, contents: str) -> None:
    (folder / name).write_bytes(contents.encode("latin-1"))
    with pytest.raises(ConfigError, match=name):
        read_tokenizer(folder)
