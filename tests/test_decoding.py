"""From logits to tokens: filters, the inverse CDF, and the loop over the cache."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gpt2spec_conformance.weights import weight_set
from gpt2spec_numpy.backend import create
from hypothesis import assume, given
from hypothesis import strategies as st

from gpt2spec.api import generate, logits
from gpt2spec.backend import Backend
from gpt2spec.config import GPT2Config
from gpt2spec.decoding import loop
from gpt2spec.decoding.sampling import SamplingOptions, choose, filtered_probabilities, inverse_cdf
from gpt2spec.errors import ConfigError, GPT2SpecError, InputError
from gpt2spec.parameters import HostParams
from gpt2spec.random import uniforms

BACKEND = create(dtype="float64")
CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=16, n_ctx=150, vocab_size=37, dropout=0.3)
PARAMS = weight_set("probe", CONFIG)
LOGITS = st.lists(st.floats(-20, 20), min_size=1, max_size=12).map(np.array)
UNIFORM = st.floats(0, 1, exclude_max=True)
GOLDEN = np.log(np.array([0.5, 0.3, 0.15, 0.05]))


def kept(values: Any, **options: Any) -> list[int]:
    return np.flatnonzero(filtered_probabilities(np.asarray(values, float), SamplingOptions(**options))).tolist()


# Filters


@pytest.mark.parametrize(
    ("p", "expected"),
    [(0.0, [0]), (0.4, [0]), (0.51, [0, 1]), (0.9, [0, 1, 2]), (0.96, [0, 1, 2, 3]), (1.0, [0, 1, 2, 3])],
)
def test_top_p_keeps_the_token_that_crosses_p(p: float, expected: list[int]) -> None:
    assert kept(GOLDEN, top_p=p) == expected
    assert kept(GOLDEN[::-1], top_p=p) == sorted(3 - i for i in expected)


def test_top_p_stops_as_soon_as_p_is_reached() -> None:
    assert kept(np.zeros(4), top_p=0.5) == [0, 1]
    assert kept(np.zeros(4), top_p=0.75) == [0, 1, 2]


@pytest.mark.parametrize(
    ("k", "expected"), [(1, [1]), (2, [1, 3]), (3, [0, 1, 3]), (5, [0, 1, 2, 3, 4]), (99, [*range(5)])]
)
def test_top_k_keeps_exactly_k(k: int, expected: list[int]) -> None:
    assert kept([1, 5, 0, 4, -1], top_k=k) == expected


def test_among_equals_the_lowest_ids_are_kept() -> None:
    assert kept([1, 2, 2, 2, 2], top_k=2) == [1, 2]
    assert kept([2, 1, 2, 2], top_p=0.5) == [0, 2]
    assert choose(np.array([1.0, 2.0, 2.0]), SamplingOptions(temperature=0.0), 0.99) == 1
    assert choose(np.array([1.0, 2.0, 2.0]), SamplingOptions(top_k=1), 0.99) == 1
    assert choose(np.array([1.0, 2.0, 2.0]), SamplingOptions(top_p=0.0), 0.99) == 1


def test_kept_tokens_share_all_probability_in_their_proportion() -> None:
    found = filtered_probabilities(GOLDEN, SamplingOptions(top_p=0.9))
    np.testing.assert_allclose(found, np.array([0.5, 0.3, 0.15, 0.0]) / 0.95, rtol=1e-12)


def test_temperature_comes_before_the_filters_and_top_k_before_top_p() -> None:
    assert kept(GOLDEN, top_p=0.9, temperature=0.5) == [0, 1]  # .685 .247 ...
    assert kept(GOLDEN, top_p=0.9, temperature=3.0) == [0, 1, 2, 3]
    assert kept(GOLDEN, top_k=2, top_p=0.6) == [0]  # of the two, the first has .625
    assert kept(GOLDEN, top_p=0.6) == [0, 1]


@given(LOGITS, st.floats(0.05, 5))
def test_probabilities_are_softmax_of_the_tempered_logits(z: np.ndarray, temperature: float) -> None:
    expected = np.exp(z / temperature - (z / temperature).max())
    found = filtered_probabilities(z, SamplingOptions(temperature))
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-12)


@given(LOGITS, st.floats(0.3, 3), st.none() | st.integers(1, 14), st.none() | st.floats(0, 1))
def test_filters_keep_the_smallest_set_of_the_likeliest(
    z: np.ndarray, temperature: float, k: int | None, p: float | None
) -> None:
    options = SamplingOptions(temperature, k, p)
    found = filtered_probabilities(z, options)
    chosen = np.flatnonzero(found)
    assert found.sum() == pytest.approx(1.0)
    assert chosen.size >= 1
    dropped = np.setdiff1d(np.arange(z.size), chosen)
    if dropped.size:
        assert z[chosen].min() >= z[dropped].max()
    if p is None:
        assert chosen.size == min(k or z.size, z.size)
        return
    before = filtered_probabilities(z, SamplingOptions(temperature, k))
    assert before[chosen].sum() >= p - 1e-12
    assert chosen.size == 1 or before[chosen].sum() - before[chosen].min() < p + 1e-12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature is a number of at least 0, not -0.1"),
        ({"temperature": math.inf}, "temperature is a number of at least 0, not inf"),
        ({"temperature": math.nan}, "temperature is a number of at least 0, not nan"),
        ({"top_k": 0}, "top_k is a whole number of at least 1, not 0"),
        ({"top_k": 1.5}, "top_k is a whole number of at least 1, not 1.5"),
        ({"top_p": -0.1}, "top_p lies from 0 to 1, not -0.1"),
        ({"top_p": 1.1}, "top_p lies from 0 to 1, not 1.1"),
        ({"top_p": math.nan}, "top_p lies from 0 to 1, not nan"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SamplingOptions(**options)
    with pytest.raises(ConfigError, match=message):
        generate(BACKEND, CONFIG, PARAMS, [[1]], **options)


# From one uniform number to a token


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10).map(np.array), UNIFORM)
def test_a_token_is_chosen_where_the_running_sum_passes_the_number(p: np.ndarray, u: float) -> None:
    assume(p.sum() > 1e-6)
    token = inverse_cdf(p, u)
    running = np.cumsum(p)
    assert p[token] > 0
    assert running[token] > u * running[-1] or token == np.flatnonzero(p)[-1]
    assert token == 0 or running[token - 1] <= u * running[-1]


def test_each_token_has_its_share_of_the_interval() -> None:
    p = np.array([0.0, 0.25, 0.0, 0.5, 0.25, 0.0])
    grid = [inverse_cdf(p, u) for u in (0.0, 0.2499, 0.25, 0.5, 0.7499, 0.75, 1 - 2**-53)]
    assert grid == [1, 1, 3, 3, 3, 4, 4]
    shares = np.bincount([inverse_cdf(p, u) for u in (np.arange(1000) + 0.5) / 1000], minlength=6) / 1000
    assert shares.tolist() == p.tolist()


def test_probabilities_need_not_add_up_to_1() -> None:
    assert [inverse_cdf(np.array([0.1, 0.3]), u) for u in (0.24, 0.26)] == [0, 1]


@given(LOGITS, UNIFORM)
def test_temperature_0_is_the_likeliest_whatever_the_number(z: np.ndarray, u: float) -> None:
    assert choose(z, SamplingOptions(temperature=0.0), u) == int(np.argmax(z))
    assert choose(z, SamplingOptions(top_k=1), u) == int(np.argmax(z))


def test_float32_logits_are_chosen_from_in_float64() -> None:
    z = np.array([0.0, -18.0], np.float32)
    assert choose(z, SamplingOptions(temperature=1.0), 1 - 1e-9) == 1


# The loop

PROMPTS = [[1, 2, 3], [5] * 70, [9], list(range(30))]


def uncached(params: HostParams, prompt: list[int], count: int, row: int, seed: int = 0, **options: Any) -> list[int]:
    """Each token chosen from the logits of the whole text so far."""
    ids = list(prompt)
    draws = uniforms(seed, "sampling", row, count=count)
    for u in draws:
        ids.append(choose(logits(BACKEND, CONFIG, params, [ids])[0, -1], SamplingOptions(**options), float(u)))
    return ids[len(prompt) :]


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"top_k": 10, "top_p": 0.9, "seed": 3}, {"temperature": 2.0}], ids=str
)
def test_tokens_are_those_of_the_whole_text_one_by_one(options: dict[str, Any]) -> None:
    """Across the boundaries of the cache's buckets, for prompts of different lengths in one batch."""
    found = generate(BACKEND, CONFIG, PARAMS, PROMPTS, max_new_tokens=70, **options)
    assert len({tuple(generation.tokens) for generation in found}) == len(PROMPTS)
    for row, (prompt, generation) in enumerate(zip(PROMPTS, found, strict=True)):
        assert generation.finish_reason == "length"
        assert generation.tokens == uncached(PARAMS, prompt, 70, row, **options)


def test_a_prompt_may_fill_the_context_with_its_new_tokens() -> None:
    prompt = [3] * 140
    (found,) = generate(BACKEND, CONFIG, PARAMS, [prompt], max_new_tokens=10)
    assert found.tokens == uncached(PARAMS, prompt, 10, 0)
    (found,) = generate(BACKEND, CONFIG, PARAMS, [[3] * 149], max_new_tokens=1)
    assert len(found.tokens) == 1


def test_a_context_shorter_than_a_bucket_is_no_obstacle() -> None:
    config = CONFIG.replace(n_ctx=5)
    params = weight_set("probe", config)
    (found,) = generate(BACKEND, config, params, [[1, 2]], max_new_tokens=3, temperature=0.0)
    ids = [1, 2]
    for _ in range(3):
        ids.append(int(np.argmax(logits(BACKEND, config, params, [ids])[0, -1])))
    assert found.tokens == ids[2:]


def test_a_row_does_not_depend_on_its_batch() -> None:
    together = generate(BACKEND, CONFIG, PARAMS, PROMPTS, max_new_tokens=8, temperature=0.0)
    for prompt, generation in zip(PROMPTS, together, strict=True):
        assert generate(BACKEND, CONFIG, PARAMS, [prompt], max_new_tokens=8, temperature=0.0) == [generation]


def test_the_seed_decides_and_each_prompt_has_a_stream_of_its_own() -> None:
    def run(seed: int) -> list[list[int]]:
        found = generate(BACKEND, CONFIG, PARAMS, [[1, 2]] * 3, max_new_tokens=12, temperature=3.0, seed=seed)
        return [generation.tokens for generation in found]

    assert run(0) == run(0)
    assert len({tuple(tokens) for seed in (0, 1) for tokens in run(seed)}) == 6


def test_more_tokens_begin_with_the_same() -> None:
    short, long = (generate(BACKEND, CONFIG, PARAMS, [[4, 2]], max_new_tokens=n)[0].tokens for n in (5, 20))
    assert long[:5] == short


def test_generation_ends_at_the_stop_token_which_is_not_part_of_it() -> None:
    free = generate(BACKEND, CONFIG, PARAMS, PROMPTS, max_new_tokens=40, seed=1)
    stop = free[0].tokens[7]
    ends = [g.tokens.index(stop) if stop in g.tokens else None for g in free]
    assert len(set(ends)) > 1, "rows should end at different places"
    stopped = generate(BACKEND, CONFIG, PARAMS, PROMPTS, max_new_tokens=40, seed=1, stop_token=stop)
    for end, whole, cut in zip(ends, free, stopped, strict=True):
        assert cut.tokens == whole.tokens[:end]
        assert cut.finish_reason == ("length" if end is None else "stop")


def test_nothing_is_computed_after_all_rows_have_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = loop._compiled_step
    monkeypatch.setattr(loop, "_compiled_step", lambda *args: calls.append(args[2]) or real(*args))
    first = generate(BACKEND, CONFIG, PARAMS, [[1, 2]], max_new_tokens=1)[0].tokens[0]
    calls.clear()
    (found,) = generate(BACKEND, CONFIG, PARAMS, [[1, 2]], max_new_tokens=50, stop_token=first)
    assert (found.tokens, found.finish_reason, len(calls)) == ([], "stop", 1)
    calls.clear()
    generate(BACKEND, CONFIG, PARAMS, [[1, 2]], max_new_tokens=66)
    assert calls == [64] * 63 + [128] * 3, "attention looks at whole buckets only, as far as there is text"


def test_no_prompts_give_no_generations() -> None:
    assert generate(BACKEND, CONFIG, PARAMS, []) == []


def test_arrays_are_prompts_too_and_stay_as_they_are() -> None:
    prompts = np.array([[1, 2], [3, 4]])
    prompts.flags.writeable = False
    found = generate(BACKEND, CONFIG, PARAMS, prompts, max_new_tokens=3)  # type: ignore[arg-type]
    assert found == generate(BACKEND, CONFIG, PARAMS, [[1, 2], [3, 4]], max_new_tokens=3)
    assert all(type(token) is int for generation in found for token in generation.tokens)
    lists = [[1, 2], [3]]
    generate(BACKEND, CONFIG, PARAMS, lists, max_new_tokens=2)
    assert lists == [[1, 2], [3]]


class NeverRuns:
    """A backend that must not be touched."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was used before the arguments were checked")


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([[1], [2] * 148], {"max_new_tokens": 3}, "prompt 1 has 148 tokens; with 3 new ones it would pass n_ctx = 150"),
        ([[1], [2] * 151], {"max_new_tokens": 1}, "prompt 1 has 151 tokens; with 1 new ones it would pass n_ctx = 150"),
        ([[1], []], {}, "prompt 1 is empty; begin with <|endoftext|> to start a new text"),
        ([[1], [3, 37]], {}, "prompt 1 has the id 37; ids are whole numbers from 0 to 36"),
        ([[-1]], {}, "prompt 0 has the id -1; ids are whole numbers from 0 to 36"),
        ([[1.5]], {}, "prompt 0 has the id 1.5; ids are whole numbers from 0 to 36"),
        (["text"], {}, "prompt 0 has the id 't'; ids are whole numbers from 0 to 36"),
        ([1, 2], {}, "prompt 0 is 1; a prompt is a sequence of token ids"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens is a whole number of at least 1, not 0"),
        ([[1]], {"max_new_tokens": 1.5}, "max_new_tokens is a whole number of at least 1, not 1.5"),
    ],
)
def test_what_cannot_be_generated_is_refused_before_anything_runs(
    prompts: Any, options: dict[str, Any], message: str
) -> None:
    backend: Any = NeverRuns()
    with pytest.raises(GPT2SpecError, match=re.escape(message)):
        generate(backend, CONFIG, PARAMS, prompts, **options)


def test_weights_that_do_not_fit_are_refused_before_anything_runs() -> None:
    backend: Any = NeverRuns()
    with pytest.raises(InputError, match="missing"):
        generate(backend, CONFIG, {}, [[1]])


def test_dropout_is_off_in_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CONFIG.dropout > 0

    def fail(*args: Any) -> Any:
        raise AssertionError("dropout in generation")

    monkeypatch.setattr(type(BACKEND.ops), "random_uniform", fail)
    generate(BACKEND, CONFIG, PARAMS, [[1]], max_new_tokens=2)


@pytest.mark.parametrize("make", [lambda: create(), lambda: create(mode="reference")], ids=["fast", "reference"])
def test_float32_chooses_the_same_tokens(make: Callable[[], Backend]) -> None:
    expected = generate(BACKEND, CONFIG, PARAMS, PROMPTS, max_new_tokens=20, seed=5)
    assert generate(make(), CONFIG, PARAMS, PROMPTS, max_new_tokens=20, seed=5) == expected


def test_a_tiny_temperature_is_nearly_greedy() -> None:
    options = SamplingOptions(temperature=1e-320)
    assert choose(np.array([1.0, 3.0, 2.0], np.float32), options, 0.99) == 1
