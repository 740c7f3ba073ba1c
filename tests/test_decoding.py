"""Decoding with a cache gives the tokens of decoding without one, whatever else is in the batch."""

import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from decoding_models import EXACT, OPTIONS, PROMPTS, SMALL, Model, NeverRuns, Recording
from gpt2spec_numpy.create import create

from gpt2spec.api import Generation, Generator, generate, stream
from gpt2spec.backend import Backend
from gpt2spec.decoding import cache
from gpt2spec.decoding.sampling import likeliest, log_probabilities
from gpt2spec.errors import GPT2SpecError, InputError
from gpt2spec.tokenizer import byte_tokenizer

CONFIG, PARAMS = SMALL.config, SMALL.params
GENERATOR = Generator(EXACT, CONFIG, PARAMS)


def tokens_of(found: list[Generation]) -> list[list[int]]:
    return [generation.tokens for generation in found]


# Tokens


@pytest.mark.parametrize("options", OPTIONS)
def test_tokens_are_those_of_the_whole_text_one_by_one(options: str) -> None:
    """Prompts of different lengths in one batch cross the boundaries of the cache's buckets."""
    found = GENERATOR.generate(PROMPTS, max_new_tokens=70, **OPTIONS[options])
    assert len(set(map(tuple, tokens_of(found)))) == len(PROMPTS)
    for number, (prompt, generation) in enumerate(zip(PROMPTS, found, strict=True)):
        assert (generation.prompt, generation.sample, generation.finish_reason) == (number, 0, "length")
        assert generation.tokens == SMALL.tokens(prompt, 70, **OPTIONS[options])


def test_a_prompt_may_fill_the_context_with_its_new_tokens() -> None:
    prompt = [3] * 140
    (found,) = GENERATOR.generate([prompt], max_new_tokens=10)
    assert found.tokens == SMALL.tokens(prompt, 10)
    (found,) = GENERATOR.generate([[3] * 149], max_new_tokens=1)
    assert len(found.tokens) == 1


@pytest.mark.parametrize("n_ctx", [2, 5, 63, 64, 65])
def test_a_context_of_any_size_can_be_filled(n_ctx: int) -> None:
    model = Model(CONFIG.replace(n_ctx=n_ctx, n_layer=1))
    (found,) = generate(EXACT, model.config, model.params, [[1]], max_new_tokens=n_ctx - 1, temperature=0.0)
    assert found.tokens == model.tokens([1], n_ctx - 1, temperature=0.0)


@pytest.mark.parametrize("length", [1, 8, 9, 31, 33, 63, 64, 65, 127, 128, 129, 149])
def test_a_prompt_of_any_length_is_read_in_one_pass(length: int) -> None:
    """The lengths are at and around the boundaries of the cache's buckets."""
    prompt = [(7 * i) % 37 for i in range(length)]
    (found,) = GENERATOR.generate([prompt], max_new_tokens=1, temperature=0.0, alternatives=3)
    expected = log_probabilities(SMALL.logits_after(prompt))
    assert found.logprobs == pytest.approx([expected.max()], abs=1e-10)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_a_text_does_not_depend_on_its_batch(batch_size: int, samples: int) -> None:
    """It does not depend on texts that end earlier either, whose rows are dropped."""
    lengths = set()
    for options in ({"temperature": 0.0}, {"seed": 1, "top_p": 0.9}):
        settings: dict[str, Any] = {"max_new_tokens": 30, "samples": samples, **options}
        frequent = np.bincount(np.concatenate(tokens_of(GENERATOR.generate(PROMPTS, **settings)))).argsort()[-2:]
        settings["stop_tokens"] = frequent.tolist()
        together = GENERATOR.generate(PROMPTS, batch_size=batch_size, **settings)
        assert [(g.prompt, g.sample) for g in together] == list(itertools.product(range(4), range(samples)))
        alone = [g for prompt in PROMPTS for g in GENERATOR.generate([prompt], **settings)]
        assert tokens_of(together) == tokens_of(alone)
        assert [g.finish_reason for g in together] == [g.finish_reason for g in alone]
        for one, other in zip(together, alone, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-9)
        lengths |= {len(generation.tokens) for generation in together}
    assert len(lengths) > 3, "texts should end at different places"


def test_many_rows_that_stop_one_after_the_other_go_on_as_they_would_alone() -> None:
    """The batch shrinks more than once, and no row takes the place of another that still grows."""
    prompts = [[i, 36 - i, i] for i in range(16)]
    free = tokens_of(GENERATOR.generate(prompts, max_new_tokens=40, seed=2))
    stop = int(np.bincount(np.concatenate(free)).argmax())
    stopped = GENERATOR.generate(prompts, max_new_tokens=40, seed=2, stop_tokens=[stop])
    ends = [tokens.index(stop) if stop in tokens else None for tokens in free]
    assert len({end for end in ends if end is not None}) > 6
    for end, whole, found in zip(ends, free, stopped, strict=True):
        assert found.tokens == whole[:end]
        assert found.finish_reason == ("length" if end is None else "stop")


# Random numbers


def test_the_seed_decides_and_each_sample_has_numbers_of_its_own() -> None:
    def run(seed: int) -> list[tuple[int, ...]]:
        found = GENERATOR.generate([[1, 2], [2, 1]], max_new_tokens=12, temperature=3.0, seed=seed, samples=3)
        return [tuple(generation.tokens) for generation in found]

    assert run(0) == run(0)
    assert len({tokens for seed in (0, 1) for tokens in run(seed)}) == 12


def test_a_prompt_has_the_same_continuation_wherever_it_stands_in_the_list() -> None:
    settings: dict[str, Any] = {"max_new_tokens": 12, "temperature": 3.0}
    ((first, second),) = [tokens_of(GENERATOR.generate([[1, 2], [3]], **settings))]
    assert tokens_of(GENERATOR.generate([[3], [4], [1, 2]], **settings))[::2] == [second, first]
    assert first == SMALL.tokens([1, 2], 12, temperature=3.0)


def test_equal_prompts_go_on_with_the_samples_of_the_ones_before() -> None:
    settings: dict[str, Any] = {"max_new_tokens": 12, "temperature": 3.0}
    six = tokens_of(GENERATOR.generate([[1, 2]], samples=6, **settings))
    assert six == [SMALL.tokens([1, 2], 12, stream=i, temperature=3.0) for i in range(6)]
    assert tokens_of(GENERATOR.generate([[1, 2]] * 6, **settings)) == six
    between = GENERATOR.generate([[1, 2], [9], [1, 2], [1, 2]], samples=2, **settings)
    assert tokens_of([generation for generation in between if generation.prompt != 1]) == six
    assert tokens_of(GENERATOR.generate([np.array([1, 2]), (1, 2)], samples=3, **settings)) == six  # type: ignore[list-item]


def test_more_tokens_begin_with_the_same() -> None:
    short, long = (GENERATOR.generate([[4, 2]], max_new_tokens=n)[0].tokens for n in (5, 20))
    assert long[:5] == short


# Ends


def test_generation_ends_at_any_stop_token_which_is_not_part_of_it() -> None:
    free = GENERATOR.generate(PROMPTS, max_new_tokens=40, seed=1)
    stops = {free[0].tokens[7], free[1].tokens[3]}
    ends = [next((i for i, token in enumerate(g.tokens) if token in stops), None) for g in free]
    assert len(set(ends)) > 1, "rows should end at different places"
    stopped = GENERATOR.generate(PROMPTS, max_new_tokens=40, seed=1, stop_tokens=list(stops))
    for end, whole, cut in zip(ends, free, stopped, strict=True):
        assert cut.tokens == whole.tokens[:end]
        assert cut.logprobs == pytest.approx(whole.logprobs[:end])
        assert cut.finish_reason == ("length" if end is None else "stop")


def test_a_stop_token_in_the_prompt_ends_nothing() -> None:
    (free,) = GENERATOR.generate([[1, 2]], max_new_tokens=5, temperature=0.0)
    unused = next(token for token in range(37) if token not in free.tokens)
    prompt = [1, unused, 2]
    (found,) = GENERATOR.generate([prompt], max_new_tokens=5, stop_tokens=[1], temperature=0.0)
    assert found.tokens == list(itertools.takewhile(lambda t: t != 1, SMALL.tokens(prompt, 5, temperature=0.0)))


def test_nothing_is_computed_after_all_rows_have_stopped() -> None:
    backend = Recording()
    first = SMALL.tokens([1, 2], 1)[0]
    generator = Generator(backend, CONFIG, PARAMS)
    backend.calls.clear()
    (found,) = generator.generate([[1, 2]], max_new_tokens=50, stop_tokens=[first])
    assert (found.tokens, found.logprobs, found.finish_reason) == ([], [], "stop")
    assert backend.calls == ["read", "to_numpy"]
    backend.calls.clear()
    (found,) = generator.generate([[1, 2]], max_new_tokens=3)
    assert backend.calls == ["read", "to_numpy", "append", "to_numpy", "append", "to_numpy"]


def test_rows_are_dropped_when_half_of_them_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [[i, 36 - i, i] for i in range(8)]
    free = tokens_of(GENERATOR.generate(prompts, max_new_tokens=30, seed=2))
    stop = int(np.bincount(np.concatenate(free)).argmax())
    ends = np.array([(*tokens, stop).index(stop) for tokens in free])
    rows: list[int] = []
    real = cache.Rows.append
    monkeypatch.setattr(cache.Rows, "append", lambda self, tokens: rows.append(len(tokens)) or real(self, tokens))
    GENERATOR.generate(prompts, max_new_tokens=30, seed=2, stop_tokens=[stop])
    expected, count = [], 8
    for step in range(min(ends.max(), 29)):
        growing = int((ends > step).sum())
        count = growing if growing <= count // 2 else count
        expected.append(count)
    assert rows == expected
    assert len(set(rows)) > 2


def test_attention_looks_at_whole_buckets_only_and_as_far_as_there_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []
    real = cache._appender
    monkeypatch.setattr(cache, "_appender", lambda *args: lengths.append(args[2]) or real(*args))
    GENERATOR.generate([[1, 2]], max_new_tokens=66)
    assert lengths == [64] * 62 + [128] * 3


def test_equal_prompts_are_read_once() -> None:
    backend = Recording()
    generator = Generator(backend, CONFIG, PARAMS)
    backend.programs.clear()
    generator.generate([[1, 2], [3, 4, 5], [1, 2]], max_new_tokens=2, samples=2)
    assert [(name, shapes[-2:]) for name, shapes in backend.programs if name == "read"] == [("read", ((2, 8), (2,)))]
    assert [shapes[-1:] for name, shapes in backend.programs if name == "append"] == [((6,),)]


def test_no_program_is_made_twice() -> None:
    """There is one for each bucket and number of rows, whatever the prompts, the seed and the number of new tokens.

    Prompts are read in passes of 8, 16, 32, 64 tokens, and of multiples of 64 from there on.
    """
    backend = Recording()
    generator = Generator(backend, CONFIG, PARAMS)
    backend.programs.clear()
    generator.generate([[1, 2, 3], [4]], max_new_tokens=70, seed=1, top_p=0.9)
    assert sorted(name for name, _ in backend.programs) == ["append", "append", "read"]
    backend.programs.clear()
    generator.generate([[1, 2], [4] * 8], max_new_tokens=80, seed=2, top_k=4, temperature=0.1)
    generator.generate([[7], [9]], max_new_tokens=110, stop_tokens=[99], repetition_penalty=1.1)
    list(generator.stream([[7], [9]], max_new_tokens=65))
    Generator(backend, CONFIG, PARAMS).generate([[7], [9]], max_new_tokens=65)
    assert [program for program in backend.programs if program[0] != "compute_params"] == []
    for length in (9, 16, 12, 33, 64, 50, 65, 128, 99, 129):
        generator.generate([[1] * length, [2]], max_new_tokens=1)
    assert {shapes[-2] for name, shapes in backend.programs if name == "read"} == {(2, n) for n in (16, 64, 128, 150)}


# Probabilities


def test_log_probabilities_are_the_models_own() -> None:
    """They are taken before any penalty, temperature or filter, whatever token was chosen."""
    for options in OPTIONS.values():
        settings = {**options, "max_new_tokens": 12, "alternatives": 4}
        for prompt, found in zip(PROMPTS, GENERATOR.generate(PROMPTS, **settings), strict=True):
            assert found.alternatives is not None
            assert len(found.logprobs) == len(found.alternatives) == len(found.tokens) == 12
            for i, (token, logprob) in enumerate(zip(found.tokens, found.logprobs, strict=True)):
                expected = log_probabilities(SMALL.logits_after(prompt + found.tokens[:i]))
                assert logprob == pytest.approx(expected[token], abs=1e-10)
                ids = [token for token, _ in found.alternatives[i]]
                assert ids == likeliest(expected, 4).tolist()
                assert [p for _, p in found.alternatives[i]] == pytest.approx(expected[ids], abs=1e-10)


def test_alternatives_begin_with_the_greedy_token_and_may_be_all_there_are() -> None:
    (found,) = GENERATOR.generate([[1, 2]], max_new_tokens=9, temperature=0.0, alternatives=1000)
    assert found.alternatives is not None
    for token, logprob, alternatives in zip(found.tokens, found.logprobs, found.alternatives, strict=True):
        assert alternatives[0] == (token, logprob)
        assert sorted(token for token, _ in alternatives) == list(range(37))
        assert sum(np.exp(p) for _, p in alternatives) == pytest.approx(1.0)
    assert GENERATOR.generate([[1, 2]], max_new_tokens=2)[0].alternatives is None


# Arguments


def test_no_prompts_give_no_generations() -> None:
    assert generate(EXACT, CONFIG, PARAMS, []) == []
    assert GENERATOR.generate([]) == []
    assert GENERATOR.generate([], beams=2) == []
    assert list(stream(EXACT, CONFIG, PARAMS, [])) == []


def test_arrays_are_prompts_too_and_stay_as_they_are() -> None:
    prompts = np.array([[1, 2], [3, 4]])
    prompts.flags.writeable = False
    found = generate(EXACT, CONFIG, PARAMS, prompts, max_new_tokens=3)  # type: ignore[arg-type]
    assert found == generate(EXACT, CONFIG, PARAMS, [[1, 2], [3, 4]], max_new_tokens=3)
    assert all(type(token) is int for generation in found for token in generation.tokens)
    lists = [[1, 2], [3]]
    generate(EXACT, CONFIG, PARAMS, lists, max_new_tokens=2)
    assert lists == [[1, 2], [3]]


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([[1], [2] * 148], {"max_new_tokens": 3}, "prompt 1 has 148 tokens; with 3 new ones it would pass n_ctx = 150"),
        ([[1], [2] * 151], {"max_new_tokens": 1}, "prompt 1 has 151 tokens; with 1 new ones it would pass n_ctx = 150"),
        ([[1], []], {}, "prompt 1 is empty; begin with <|endoftext|> to start a new text"),
        ([[1], [3, 37]], {}, "prompt 1 has the id 37; ids are whole numbers from 0 to 36"),
        ([[-1]], {}, "prompt 0 has the id -1; ids are whole numbers from 0 to 36"),
        ([[1.5]], {}, "prompt 0 has the id 1.5; ids are whole numbers from 0 to 36"),
        ([["text"]], {}, "prompt 0 has the id 'text'; ids are whole numbers from 0 to 36"),
        (["text"], {}, "prompt 0 is text; give token ids, or a tokenizer"),
        ("text", {}, "prompts is a list of prompts; put the one text into a list"),
        ([1, 2], {}, "prompt 0 is 1; a prompt is text or a sequence of token ids"),
        (["é"], {"tokenizer": byte_tokenizer()}, "prompt 0 has the id 127; ids are whole numbers from 0 to 36"),
        ([""], {"tokenizer": byte_tokenizer()}, "prompt 0 has the id 256; ids are whole numbers from 0 to 36"),
    ],
)
@pytest.mark.parametrize("call", [generate, stream])
def test_what_cannot_be_generated_is_refused_before_anything_runs(
    prompts: Any, options: dict[str, Any], message: str, call: Callable[..., Any]
) -> None:
    with pytest.raises(GPT2SpecError, match=re.escape(message)):
        call(NeverRuns(), CONFIG, PARAMS, prompts, **options)
    if call is generate:
        with pytest.raises(GPT2SpecError, match=re.escape(message)):
            call(NeverRuns(), CONFIG, PARAMS, prompts, beams=2, **options)


def test_weights_that_do_not_fit_are_refused_before_anything_runs() -> None:
    backend: Any = NeverRuns()
    for call in (generate, stream):
        with pytest.raises(InputError, match="missing"):
            call(backend, CONFIG, {}, [[1]])
    with pytest.raises(InputError, match="missing"):
        Generator(backend, CONFIG, {})


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.0}, {"beams": 2}, {"alternatives": 2}], ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_give_no_finite_logits_are_told(bad: float, settings: dict[str, Any]) -> None:
    broken = {**PARAMS, "ln_f.bias": np.full_like(PARAMS["ln_f.bias"], bad)}
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(InputError, match="the model's logits are not finite: its weights are damaged, or training"),
    ):
        generate(EXACT, CONFIG, broken, [[1]], max_new_tokens=2, **settings)


def test_dropout_is_off_in_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CONFIG.dropout > 0

    def fail(*args: Any) -> Any:
        raise AssertionError("dropout in generation")

    monkeypatch.setattr(type(EXACT.ops), "random_uniform", fail)
    GENERATOR.generate([[1]], max_new_tokens=2)
    GENERATOR.generate([[1]], max_new_tokens=2, beams=2)


@pytest.mark.parametrize("make", [lambda: create(), lambda: create(mode="reference")], ids=["fast", "reference"])
def test_float32_chooses_the_same_tokens(make: Callable[[], Backend]) -> None:
    expected = tokens_of(GENERATOR.generate(PROMPTS, max_new_tokens=20, seed=5, samples=2))
    assert tokens_of(generate(make(), CONFIG, PARAMS, PROMPTS, max_new_tokens=20, seed=5, samples=2)) == expected


def test_a_generator_can_be_used_again_and_texts_do_not_meet_in_it() -> None:
    generator = Generator(create(), CONFIG, PARAMS)
    first = generator.generate(PROMPTS, max_new_tokens=20)
    running = generator.stream([[8]], max_new_tokens=20)
    pieces = [next(running)]
    generator.generate([[7] * 40], max_new_tokens=30, beams=3)
    assert generator.generate(PROMPTS, max_new_tokens=20) == first
    pieces += running
    assert [piece.choice.token for piece in pieces if piece.choice] == SMALL.tokens([8], 20)


def test_layers_and_heads_of_any_number_decode() -> None:
    for shape in ({"n_layer": 1, "n_head": 1}, {"n_layer": 3, "n_head": 3, "n_embd": 21}):
        model = Model(CONFIG.replace(**shape))
        (found,) = generate(EXACT, model.config, model.params, [[1, 2]], max_new_tokens=8)
        assert found.tokens == model.tokens([1, 2], 8)
