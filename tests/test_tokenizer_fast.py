"""fastokens gives tiktoken's ids, and a difference is detected."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2spec.cli.main import main
from gpt2spec.errors import ConfigError, InputError
from gpt2spec.tokenizer import Tokenizer, byte_tokenizer, encode_stream, gpt2_tokenizer, train_tokenizer
from gpt2spec.tokenizer import fast as module
from gpt2spec.tokenizer.fast import FastEncoder

GPT2 = gpt2_tokenizer()
LEARNED = train_tokenizer([["the theme of the thesis, then there; they're here 'tis 1234 1234 "]], 280)
FRAGMENTS = [
    *"aZ9!'\n\t\r _-",
    *("'s", "'LL", "\u2019ll", "  ", "\r\n", " \n ", "\x1c", "\x85", "\xa0", "\u2003", "\u200b", "\u3000", "\x00"),
    *("é", "e\u0301", "中文", "🦙", "👩‍👩‍👧", "٣", "Ⅷ", "½", "\u017f", "İ", "ǅ", "\ud7ff", "\ue000", "\U0010ffff"),
    *("<|endoftext|>", "the", " the", "http://", "1234567890", "ab" * 300, " " * 300, "=" * 300),
]
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join) | st.text(st.characters(codec="utf-8"))


@pytest.fixture(scope="module", params=[GPT2, LEARNED, byte_tokenizer()], ids=["gpt2", "learned", "bytes"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return request.param


@pytest.fixture(scope="module")
def unchecked(tokenizer: Tokenizer) -> FastEncoder:
    """An encoder that does not compare with tiktoken."""
    encoder = FastEncoder(tokenizer)
    encoder._batches = itertools.repeat(module.CHECKED_EVERY + 1)  # type: ignore[assignment]
    return encoder


@settings(max_examples=300)
@given(texts=st.lists(TEXTS, min_size=1, max_size=5))
def test_ids_are_those_of_tiktoken(tokenizer: Tokenizer, unchecked: FastEncoder, texts: list[str]) -> None:
    found = [ids.tolist() for ids in unchecked.encode(texts)]
    assert found == [tokenizer.encode(text) for text in texts]


def test_a_very_long_word_is_encoded_as_well(unchecked: FastEncoder, tokenizer: Tokenizer) -> None:
    texts = [unit * (100_000 // len(unit)) for unit in ("a", "ab", " ", "\n", "中", "0")]
    for text, ids in zip(texts, unchecked.encode(texts), strict=True):
        assert np.array_equal(ids, tokenizer.encode_to_numpy(text))


def test_what_is_no_text_is_told_as_by_tiktoken(unchecked: FastEncoder) -> None:
    with pytest.raises(InputError, match=r"lone surrogate U\+D800 at character 1"):
        unchecked.encode(["fine", "a\ud800"])


@pytest.mark.parametrize("batch", [0, module.CHECKED_FIRST - 1, 3 * module.CHECKED_EVERY])
def test_a_difference_is_found(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = FastEncoder(GPT2)
    encoder._batches = itertools.count(batch)
    right = encoder._encoded
    monkeypatch.setattr(encoder, "_encoded", lambda texts: [ids + 1 for ids in right(texts)])
    with pytest.raises(InputError, match="fastokens and tiktoken disagree on a text that begins 'a text'"):
        encoder.encode(["a text"])


def test_prepared_data_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for i in range(30):
        (tmp_path / "texts" / f"{i}.txt").write_text(f"Document {i} says: they're {'here, ' * i}<|endoftext|>")
    for encoder in ("tiktoken", "fastokens"):
        line = ["data", "prepare", str(tmp_path / "texts"), "--out", str(tmp_path / encoder), "--encoder", encoder]
        assert main(line) == 0
    first, second = (json.loads((tmp_path / e / "manifest.json").read_text()) for e in ("tiktoken", "fastokens"))
    assert first == second


def test_its_absence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastokens", None)
    with pytest.raises(ConfigError, match=r'pip install "gpt2spec\[fast\]"'):
        list(encode_stream(GPT2, ["text"], encoder="fastokens"))
