"""The tokenizer is GPT-2's, to the id, for any text and without a network."""

import gzip
import hashlib
import itertools
import json
import subprocess
import sys
import time
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpt2spec.errors import InputError
from gpt2spec.tokenizer import StreamDecoder, gpt2_tokenizer, last_boundary, split_safely, text_of
from gpt2spec.tokenizer.pieces import LONG_RUN, WHITE_SPACE, split_long_runs
from gpt2spec.tokenizer.vocabulary import encoder_mapping

TOKENIZER = gpt2_tokenizer()

# Texts made of what the pattern tells apart: letters, digits, spaces of several kinds, contractions, symbols,
# characters of several bytes, and U+001C, which is white space to Python but not to the pattern.
tricky = st.lists(
    st.sampled_from(
        [*"a Z9!'\n\t", "'s", "'ll", "  ", "\r\n", "\xa0", "\u2003", "\x1c", "é", "中", "🦙", "<|endoftext|>"]
    )
    | st.characters(codec="utf-8"),
    max_size=40,
).map("".join)
token_ids = st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=30)


def test_the_vocabulary_is_the_released_one() -> None:
    merges = files("gpt2spec.tokenizer").joinpath("vocab.bpe.gz").read_bytes()
    assert merges[4:8] == bytes(4), "the compressed file holds a time and cannot be reproduced"
    # SHA-256 of vocab.bpe and of encoder.json as OpenAI published them (tiktoken_ext/openai_public.py has both).
    vocab_bpe = hashlib.sha256(gzip.decompress(merges)).hexdigest()
    encoder_json = hashlib.sha256(json.dumps(encoder_mapping(TOKENIZER.ranks)).encode()).hexdigest()
    assert vocab_bpe == "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
    assert encoder_json == "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
    assert (TOKENIZER.vocab_size, TOKENIZER.end_of_text, TOKENIZER.id) == (50257, 50256, "gpt2-1ce1664773c50f3e")


def test_end_of_text_is_special_only_when_asked_for() -> None:
    ordinary = [27, 91, 437, 1659, 5239, 91, 29]
    assert TOKENIZER.encode("<|endoftext|>") == ordinary
    assert TOKENIZER.encode_to_numpy("<|endoftext|>").tolist() == ordinary
    assert TOKENIZER.encode("<|endoftext|>", special=True) == [50256]
    assert TOKENIZER.encode("a <|endoftext|><|endoftext|>b", special=True) == [64, 220, 50256, 50256, 65]


# From llama.cpp's models/ggml-vocab-gpt-2.gguf.inp and .out, which were made with Hugging Face's tokenizer.
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", []),
        ("   ", [220, 220, 220]),
        ("\n\n\n", [628, 198]),
        ("\t\n", [197, 198]),
        ("    Hello\n    Hello", [220, 220, 220, 18435, 198, 220, 220, 220, 18435]),
        (" this is 🦙.cpp", [428, 318, 12520, 99, 247, 13, 20322]),
        ("' era", [6, 6980]),
        ("Hello, y'all! How are you 😁 ?", [15496, 11, 331, 6, 439, 0, 1374, 389, 345, 30325, 223, 5633]),
        ("333333333", [24840, 2091, 20370]),
        ("Cửa Việt", [34, 157, 119, 255, 64, 16049, 157, 119, 229, 83]),
        ("we'Ve a'lL", [732, 6, 26979, 257, 6, 75, 43]),
    ],
)
def test_known_texts_have_their_known_ids(text: str, ids: list[int]) -> None:
    assert TOKENIZER.encode(text) == ids
    assert TOKENIZER.decode(ids) == text


@settings(deadline=None)
@given(tricky, st.booleans())
def test_decoding_gives_any_text_back(text: str, special: bool) -> None:
    ids = TOKENIZER.encode(text, special=special)
    assert TOKENIZER.decode(ids) == text
    assert b"".join(TOKENIZER.decode_each(ids)) == TOKENIZER.decode_bytes(ids) == text.encode()


@settings(deadline=None)
@given(tricky)
def test_the_fast_path_gives_the_same_ids(text: str) -> None:
    array = TOKENIZER.encode_to_numpy(text)
    assert array.dtype == np.uint32
    assert array.tolist() == TOKENIZER.encode(text)


@settings(deadline=None)
@given(token_ids)
@example([12520, 99, 247])  # one llama in three tokens
@example([12520, 99])
def test_a_stream_of_tokens_gives_the_text_of_them_all(ids: list[int]) -> None:
    decoder = StreamDecoder(TOKENIZER)
    assert "".join([*map(decoder.feed, ids), decoder.finish()]) == TOKENIZER.decode(ids)


def test_a_stream_holds_a_character_back_until_it_is_whole() -> None:
    decoder = StreamDecoder(TOKENIZER)
    assert [decoder.feed(token) for token in TOKENIZER.encode("a 🦙!")] == ["a", " ", "", "🦙", "!"]
    assert (decoder.feed(99), decoder.feed(12520), decoder.finish()) == ("\ufffd", " ", "\ufffd")
    assert decoder.feed(64) == "a", "finish leaves nothing behind"


def test_ids_that_only_the_model_has_are_shown_as_replaced() -> None:
    assert text_of(TOKENIZER, [64, 50257, 12520, 50300, 65]) == "a\ufffd \ufffd\ufffdb"
    with pytest.raises(InputError, match="there is no token -1"):
        text_of(TOKENIZER, [-1])


@pytest.mark.parametrize("token", [50257, -1, 2**70])
def test_an_unknown_id_is_named_with_the_size_of_the_vocabulary(token: int) -> None:
    for use in (TOKENIZER.decode, TOKENIZER.decode_bytes, TOKENIZER.decode_each):
        with pytest.raises(InputError, match=f"there is no token {token}: ids run from 0 to 50256"):
            use([11, token])


def test_what_is_no_text_is_refused() -> None:
    for use in (TOKENIZER.encode, TOKENIZER.encode_to_numpy):
        with pytest.raises(InputError, match=r"lone surrogate U\+D800 at character 2"):
            use("ab\ud800")
        with pytest.raises(InputError, match="encodes a string, not bytes"):
            use(b"ab")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="whole numbers"):
        TOKENIZER.decode([1.5])  # type: ignore[list-item]


def test_arrays_of_ids_can_be_decoded() -> None:
    assert TOKENIZER.decode(np.array([15496, 995], np.uint16)) == "Hello world"


@settings(deadline=None)
@given(tricky.flatmap(lambda text: st.tuples(st.just(text), st.lists(st.integers(0, len(text)), max_size=6))))
@example(("a  \n b", [2, 4]))
@example(("x \x1c y", [2, 3]))
def test_pieces_cut_anywhere_have_the_ids_of_the_whole(case: tuple[str, list[int]]) -> None:
    text, cuts = case
    bounds = [0, *sorted(cuts), len(text)]
    pieces = list(split_safely(text[start:stop] for start, stop in itertools.pairwise(bounds)))
    assert "".join(pieces) == text
    assert [token for piece in pieces for token in TOKENIZER.encode(piece)] == TOKENIZER.encode(text)


@settings(deadline=None)
@given(tricky)
def test_a_boundary_separates_the_tokens(text: str) -> None:
    cut = last_boundary(text)
    assert TOKENIZER.encode(text[:cut]) + TOKENIZER.encode(text[cut:]) == TOKENIZER.encode(text)


def test_ordinary_prose_is_cut_near_the_end_of_each_chunk() -> None:
    prose = "It is a truth universally acknowledged,\n" * 100
    pieces = list(split_safely(prose[i : i + 500] for i in range(0, len(prose), 500)))
    assert len(pieces) >= 8
    assert max(map(len, pieces)) < 530


def test_white_space_is_what_the_pattern_takes_for_it() -> None:
    """Before an x, two newlines are one token if white space follows them, and two if anything else does."""
    characters = [chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000]
    two_newlines = TOKENIZER.encode("\n\n")[0]
    spaces = {each for each in characters if TOKENIZER.encode(f"\n\n{each}x")[0] == two_newlines}
    assert spaces == set(WHITE_SPACE)


@pytest.mark.parametrize("unit", ["a", " ", "\n", "=", "0", "ab", " \n", "\xa0", "中"])
@pytest.mark.parametrize("end", ["", "x"])
def test_a_very_long_run_is_encoded_in_little_time(unit: str, end: str) -> None:
    """tiktoken alone panics on a million spaces before a letter."""
    text = "x" + unit * (1_200_000 // len(unit)) + end
    start = time.perf_counter()
    ids = TOKENIZER.encode_to_numpy(text)
    assert TOKENIZER.decode(ids) == text
    assert time.perf_counter() - start < 30


@pytest.mark.parametrize("run", [" ", "\n", " \n", "\u2003"])
@pytest.mark.parametrize("end", ["", "x", "!", "\n", "'s", "1", "\x1c"])
def test_cutting_a_long_run_changes_no_id(run: str, end: str) -> None:
    text = "x" + run * (3 * LONG_RUN) + end  # long enough to be cut, short enough for tiktoken alone
    parts = split_long_runs(text)
    assert len(parts) == (1 if end in ("", "\n") else 2)
    assert TOKENIZER.encode(text) == TOKENIZER._encoding.encode_ordinary(text)


def test_importing_the_tokenizer_does_not_import_tiktoken() -> None:
    code = "import sys, gpt2spec.tokenizer as t; t.gpt2_tokenizer(); sys.exit('tiktoken' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
