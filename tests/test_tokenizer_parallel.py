"""Encoding on several threads gives the ids of encoding one text after the other, and can be stopped."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2spec.errors import ConfigError, DataError, InputError
from gpt2spec.tokenizer import Tokenizer, encode_labelled, encode_stream, gpt2_tokenizer
from gpt2spec.tokenizer.parallel import BATCH_CHARACTERS, BATCHES_A_WORKER

TOKENIZER = gpt2_tokenizer()
LONG = "It is a truth universally acknowledged. " * (BATCH_CHARACTERS // 40 + 1)


def encoding_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("gpt2spec-encode")]


@settings(max_examples=30)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=20) | st.just(LONG), max_size=12), st.integers(1, 3))
def test_ids_come_in_the_order_of_the_texts(texts: list[str], workers: int) -> None:
    expected = [TOKENIZER.encode_to_numpy(text).tolist() for text in texts]
    assert [ids.tolist() for ids in encode_stream(TOKENIZER, texts, workers)] == expected
    labelled = list(encode_labelled(TOKENIZER, enumerate(texts), workers))
    assert [(label, ids.tolist()) for label, ids in labelled] == list(enumerate(expected))


fragments = st.lists(
    st.sampled_from(["<|endof", "text|>", "<|endoftext|>", "<", ">", " ", "\n", "a", "'s"]), max_size=6
)


@given(st.lists(fragments.map("".join), max_size=6))
def test_what_separates_texts_inside_is_ordinary_text_in_them(texts: list[str]) -> None:
    expected = [TOKENIZER.encode(text) for text in texts]
    assert [ids.tolist() for ids in encode_stream(TOKENIZER, texts, 1)] == expected


@pytest.mark.parametrize("before", [[], ["good"], ["<|endoftext|>"]])
@pytest.mark.parametrize("bad", ["a\ud800", None])
def test_what_is_no_text_is_told_wherever_it_stands(before: list[str], bad: Any) -> None:
    with pytest.raises(InputError, match=r"lone surrogate|not NoneType"):
        TOKENIZER.encode_each([*before, bad])
    with pytest.raises((InputError, TypeError)):
        list(encode_stream(TOKENIZER, [*before, bad]))


def test_ids_are_uint16_where_they_fit() -> None:
    (ids,) = encode_stream(TOKENIZER, ["one"])
    assert ids.dtype == np.uint16


def test_a_larger_vocabulary_has_ids_of_uint32() -> None:
    characters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    pairs = [left + right for left in characters for right in characters]
    lines = [f"{left} {right}" for left in characters for right in characters]
    lines += [f"{pair} {right}" for pair in pairs for right in characters][: 2**16]
    large = Tokenizer("\n".join(["#version: 0.2", *lines, ""]).encode(), name="large")
    (ids,) = encode_stream(large, ["."])
    assert (ids.dtype, ids.tolist()) == (np.uint32, [13])


def test_reading_ahead_is_bounded() -> None:
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield LONG

    stream = encode_stream(TOKENIZER, texts(), 2)
    for received in range(1, 4):
        next(stream)
        assert read <= received + BATCHES_A_WORKER * 2


def test_closing_the_stream_stops_the_threads() -> None:
    stream = encode_stream(TOKENIZER, (LONG for _ in range(10**9)), 2)
    next(stream)
    assert encoding_threads()
    stream.close()  # type: ignore[attr-defined]
    assert not encoding_threads()


def test_an_error_of_the_source_comes_out_and_stops_the_threads() -> None:
    def texts() -> Iterator[str]:
        yield LONG
        raise DataError("the disk is gone")

    with pytest.raises(DataError, match="the disk is gone"):
        list(encode_stream(TOKENIZER, texts(), 2))
    assert not encoding_threads()


def test_an_error_of_a_text_comes_out_after_the_batches_before_it() -> None:
    stream = encode_stream(TOKENIZER, [LONG, "a\ud800", LONG], 2)
    next(stream)
    with pytest.raises(InputError, match="lone surrogate"):
        next(stream)
    assert not encoding_threads()


def test_settings_are_checked_before_anything_is_read() -> None:
    with pytest.raises(ConfigError, match="at least one worker, not 0"):
        encode_stream(TOKENIZER, iter(()), 0)
    with pytest.raises(ConfigError, match=r"no encoder 'tiktokn' \(did you mean 'tiktoken'"):
        encode_stream(TOKENIZER, iter(()), encoder="tiktokn")
