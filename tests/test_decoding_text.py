"""Prompts and results are text: stop strings end it, and pieces are decoded as they come."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from decoding_models import EXACT, TEXT, Recording, asynchronous
from gpt2spec_numpy.create import create
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2spec.api import Choice, GenerateOptions, Generator, Piece, generate, stream
from gpt2spec.decoding.sequence import Generation, GrowingText, collect
from gpt2spec.decoding.stops import StopStrings
from gpt2spec.errors import InputError
from gpt2spec.tokenizer import Tokenizer, byte_tokenizer

BYTES = byte_tokenizer()
MERGED = Tokenizer(b"#version: 0.2\nh e\nl l\nhe ll\nhell o\nw o\n", "merged")
"""Besides the bytes: he, ll, hell, hello, wo, as 256 to 260."""
TEXTS = Generator(EXACT, TEXT.config, TEXT.params, BYTES)
ALPHABET = st.text("ab<é😀", max_size=30)
STOPS = st.lists(st.text("ab<é😀", min_size=1, max_size=4), max_size=3)


def before_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the stop string that is complete first, by the definition; among several, the longest counts."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


def grown(tokens: Sequence[int], tokenizer: Tokenizer = BYTES, **wanted: Any) -> tuple[list[Piece], Generation]:
    """The pieces of a text with the given tokens, until it is finished."""
    options = GenerateOptions(max_new_tokens=len(tokens), **wanted)
    text = GrowingText(0, 0, [1], 0, options, tokenizer)
    pieces = []
    for i, token in enumerate(tokens):
        if not text.finished:
            pieces.append(text.add(Choice(token, -float(i))))
    return pieces, collect(pieces, with_text=True, with_alternatives=False)


# Stop strings


@given(ALPHABET, STOPS, st.lists(st.integers(0, 30), max_size=5))
def test_text_ends_before_the_first_stop_string_wherever_it_is_cut(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    watch = StopStrings(stops)
    places = [0, *sorted(cuts), len(text)]
    found = "".join([watch.feed(text[a:b]) for a, b in itertools.pairwise(places)]) + watch.finish()
    assert (found, watch.found) == before_stop(text, stops)


@given(ALPHABET, STOPS)
def test_only_what_may_begin_a_stop_string_is_held_back(text: str, stops: list[str]) -> None:
    watch = StopStrings(stops)
    seen, given_out = "", ""
    for character in text:
        seen, given_out = seen + character, given_out + watch.feed(character)
        if watch.found:
            assert (given_out, True) == before_stop(seen, stops)
            break
        held = seen[len(given_out) :]
        assert not held or any(stop.startswith(held) for stop in stops)
        assert not any(stop.startswith(seen[i:]) for i in range(len(given_out)) for stop in stops)


@given(ALPHABET, STOPS, st.booleans())
def test_a_text_ends_at_a_stop_string_with_the_token_that_completes_it(
    text: str, stops: list[str], stop_token: bool
) -> None:
    """Characters, and so stop strings, are spread over tokens of single bytes."""
    tokens = BYTES.encode(text) + [BYTES.end_of_text] * stop_token
    if not tokens:
        return
    pieces, whole = grown(tokens, stop=stops, stop_tokens=[BYTES.end_of_text])
    expected, stopped = before_stop(text, stops)
    assert whole.text == expected
    assert whole.finish_reason == ("stop" if stopped or stop_token else "length")
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert whole.tokens == tokens[: len(whole.tokens)]
    assert before_stop(BYTES.decode(whole.tokens), stops)[1] == stopped
    if stopped:
        assert not before_stop(BYTES.decode(whole.tokens[:-1]), stops)[1], "the last token completed it"
    else:
        assert BYTES.decode(whole.tokens) == text


@given(st.lists(st.sampled_from([39, 71, 68, 75, 78, 86, 256, 257, 258, 259, 260]), min_size=1, max_size=12))
def test_a_stop_string_cuts_a_text_alike_however_it_is_split_into_tokens(tokens: list[int]) -> None:
    """Tokens are letters, or longer ones that begin or end within the stop string."""
    text = MERGED.decode(tokens)
    stops = ["llo", "ow", "hel" + "l" * 2]
    _, whole = grown(tokens, MERGED, stop=stops)
    assert whole.text == before_stop(text, stops)[0]
    _, bytewise = grown(BYTES.encode(text), stop=stops)
    assert (whole.text, whole.finish_reason) == (bytewise.text, bytewise.finish_reason)


def test_a_stop_string_inside_one_token_or_over_several_is_found() -> None:
    (hello,) = MERGED.encode("hello")
    pieces, whole = grown([hello, hello], MERGED, stop=["ell"])
    assert (whole.text, whole.tokens, whole.finish_reason) == ("h", [hello], "stop")
    pieces, whole = grown([hello, hello, hello], MERGED, stop=["lohe"])
    assert [piece.text for piece in pieces] == ["hel", ""]
    assert (whole.text, whole.tokens, whole.finish_reason) == ("hel", [hello, hello], "stop")


def test_what_could_begin_a_stop_string_is_told_once_it_is_known_not_to() -> None:
    pieces, whole = grown(BYTES.encode("a<<b"), stop=["<b>", "<<<"])
    assert [piece.text for piece in pieces] == ["a", "", "", "<<b"]
    assert (whole.text, whole.finish_reason) == ("a<<b", "length")
    pieces, _ = grown(BYTES.encode("a<<bc"), stop=["<b>", "<<<"])
    assert [piece.text for piece in pieces] == ["a", "", "", "<", "<bc"]
    pieces, whole = grown([*BYTES.encode("a<"), BYTES.end_of_text], stop=["<b>"], stop_tokens=[256])
    assert [(piece.text, piece.finish_reason) for piece in pieces] == [("a", None), ("", None), ("<", "stop")]
    assert (pieces[-1].choice, whole.tokens, whole.text) == (None, BYTES.encode("a<"), "a<")


def test_a_stop_string_completed_by_the_last_token_is_the_reason() -> None:
    _, whole = grown(BYTES.encode("abc"), stop=["bc"])
    assert (whole.text, whole.finish_reason) == ("a", "stop")


def test_a_stop_string_in_the_end_of_a_text_that_breaks_off_is_found() -> None:
    """An incomplete character is U+FFFD only when it is known to stay incomplete."""
    first = BYTES.encode("é")[0]
    for tokens in ([64, first], [64, first, 256]):
        _, whole = grown(tokens, stop=["\ufffd"], stop_tokens=[256])
        assert (whole.text, whole.tokens, whole.finish_reason) == ("a", [64, first], "stop")
    _, whole = grown([64, *BYTES.encode("é")], stop=["\ufffd"])
    assert (whole.text, whole.finish_reason) == ("aé", "length")


def test_a_generated_text_is_cut_before_a_stop_string() -> None:
    """Several texts are generated in one batch, and each ends at its own first occurrence."""
    prompts = ["one", "two", "three"]
    free = TEXTS.generate(prompts, max_new_tokens=60, top_k=20, samples=2)
    texts = [generation.text or "" for generation in free]
    stops = [texts[0][10:12], texts[3][30:33]]
    found = TEXTS.generate(prompts, max_new_tokens=60, top_k=20, samples=2, stop=stops)
    assert len({len(generation.tokens) for generation in found}) > 1
    for generation, whole in zip(found, free, strict=True):
        expected, stopped = before_stop(whole.text or "", stops)
        assert (generation.text, generation.finish_reason == "stop") == (expected, stopped)
        count = len(generation.tokens)
        assert generation.tokens == whole.tokens[:count]
        assert generation.logprobs == pytest.approx(whole.logprobs[:count])
        assert before_stop(decoded(whole.tokens[:count]), stops)[1] == stopped


# Pieces


@pytest.mark.parametrize("device", [False, True], ids=["host", "device"])
@pytest.mark.parametrize("promptly", [True, False])
def test_pieces_add_up_to_what_generate_gives(promptly: bool, device: bool) -> None:
    backend = asynchronous(create(dtype="float64")) if device else EXACT
    generator = Generator(backend, TEXT.config, TEXT.params, BYTES)
    wanted: dict[str, Any] = {"max_new_tokens": 50, "samples": 2}
    free = TEXTS.generate(["one", "two", "three"], **wanted)
    stop, stop_token = (free[0].text or "")[20:22], free[3].tokens[9]
    options = GenerateOptions(stop=[stop], stop_tokens=[stop_token], batch_size=3, **wanted)
    whole = generator.generate(["one", "two", "three"], options)
    assert {generation.finish_reason for generation in whole} == {"stop", "length"}
    pieces: dict[tuple[int, int], list[Piece]] = {}
    for piece in generator.stream(["one", "two", "three"], options, promptly=promptly):
        pieces.setdefault((piece.prompt, piece.sample), []).append(piece)
    assert list(pieces) == list(itertools.product(range(3), range(2)))
    for generation in whole:
        parts = pieces[generation.prompt, generation.sample]
        assert generator.collect(parts, options) == generation
        assert "".join(part.text for part in parts) == generation.text
        assert [part.finish_reason for part in parts] == [None] * (len(parts) - 1) + [generation.finish_reason]
        assert [part.choice.token for part in parts if part.choice] == generation.tokens
        assert all(part.choice for part in parts[:-1])


def test_texts_of_a_batch_are_told_side_by_side() -> None:
    pieces = TEXTS.stream(["one", "two"], max_new_tokens=4)
    assert [piece.prompt for piece in pieces] == [0, 1] * 4


def test_a_character_comes_when_its_last_byte_does() -> None:
    pieces, whole = grown(BYTES.encode("a😀é"))
    assert [piece.text for piece in pieces] == ["a", "", "", "", "😀", "", "é"]
    assert whole.text == "a😀é"
    pieces, whole = grown(BYTES.encode("😀")[:2])
    assert [piece.text for piece in pieces] == ["", "\ufffd"]
    pieces, whole = grown([*BYTES.encode("😀")[:2], 256], stop_tokens=[256])
    assert [piece.text for piece in pieces] == ["", "", "\ufffd"]


@given(st.lists(st.integers(0, 259), min_size=1, max_size=20))
def test_ids_beyond_the_tokenizers_are_unknown_characters(tokens: list[int]) -> None:
    """They end an incomplete character, as any token does that does not continue it."""
    pieces, whole = grown(tokens)
    assert whole.text == decoded(tokens)
    assert "".join(piece.text for piece in pieces) == whole.text
    assert whole.tokens == tokens


def decoded(tokens: list[int]) -> str:
    """The text of known and unknown ids, decoded run by run."""
    runs = [(unknown, list(run)) for unknown, run in itertools.groupby(tokens, lambda token: token > 256)]
    return "".join("\ufffd" * len(run) if unknown else BYTES.decode(run) for unknown, run in runs)


def test_an_unknown_id_breaks_off_a_character() -> None:
    first, second = BYTES.encode("é")
    pieces, _ = grown([first, 257, second, first, second])
    assert [piece.text for piece in pieces] == ["", "\ufffd\ufffd", "\ufffd", "", "é"]


def test_a_model_with_more_ids_than_its_tokenizer_gives_text_all_the_same() -> None:
    found = [g for seed in range(4) for g in TEXTS.generate(["a"], max_new_tokens=90, temperature=3.0, seed=seed)]
    assert any(token > 256 for generation in found for token in generation.tokens)
    for generation in found:
        assert generation.text == decoded(generation.tokens)


def test_an_iterator_of_pieces_can_be_closed_early() -> None:
    backend = Recording()
    generator = Generator(backend, TEXT.config, TEXT.params, BYTES)
    pieces = generator.stream(["one", "two"], max_new_tokens=50)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert list(pieces) == []
    assert backend.calls.count("append") == 0
    assert generator.generate(["one"], max_new_tokens=5) == TEXTS.generate(["one"], max_new_tokens=5)


def test_nothing_is_computed_before_the_first_piece_is_asked_for() -> None:
    backend = Recording()
    pieces = stream(backend, TEXT.config, TEXT.params, ["one"], max_new_tokens=3, tokenizer=BYTES)
    assert "read" not in backend.calls
    assert len(list(pieces)) == 3
    with pytest.raises(InputError, match="prompt 0 has 3 tokens"):
        stream(backend, TEXT.config, TEXT.params, ["one"], max_new_tokens=98, tokenizer=BYTES)


# Without a tokenizer, and with one


def test_without_a_tokenizer_there_is_no_text() -> None:
    for found in (generate(EXACT, TEXT.config, TEXT.params, [[1]], max_new_tokens=3, beams=n)[0] for n in (1, 2)):
        assert found.text is None
        assert len(found.tokens) == 3
    pieces = list(stream(EXACT, TEXT.config, TEXT.params, [[1]], max_new_tokens=3))
    assert [piece.text for piece in pieces] == [""] * 3


def test_text_and_its_ids_are_the_same_prompt() -> None:
    found = TEXTS.generate(["one", BYTES.encode("one")], max_new_tokens=9, temperature=0.0)
    assert found[0].tokens == found[1].tokens == TEXT.tokens(BYTES.encode("one"), 9, temperature=0.0)


def test_special_text_in_a_prompt_is_ordinary_text() -> None:
    spelled = BYTES.encode("<|endoftext|>")
    assert len(spelled) == 13
    (found,) = TEXTS.generate(["<|endoftext|>"], max_new_tokens=9)
    assert found.tokens == TEXT.tokens(spelled, 9)


def test_an_empty_prompt_begins_a_new_text() -> None:
    for empty in ("", []):
        (found,) = TEXTS.generate([empty], max_new_tokens=9)
        assert found.tokens == TEXT.tokens([BYTES.end_of_text], 9)
        (found,) = TEXTS.generate([empty], max_new_tokens=5, beams=2)
        assert found.tokens == TEXTS.generate([[BYTES.end_of_text]], max_new_tokens=5, beams=2)[0].tokens


@settings(max_examples=10)
@given(st.text("ab", min_size=1, max_size=3), st.integers(0, 2**30))
def test_a_stop_string_only_cuts_and_changes_nothing_before(stop: str, seed: int) -> None:
    wanted: dict[str, Any] = {"max_new_tokens": 40, "seed": seed, "top_k": 60}
    (free,), (found,) = TEXTS.generate(["x"], **wanted), TEXTS.generate(["x"], stop=[stop], **wanted)
    assert (found.text, found.finish_reason == "stop") == before_stop(free.text or "", [stop])
    assert found.tokens == free.tokens[: len(found.tokens)]
