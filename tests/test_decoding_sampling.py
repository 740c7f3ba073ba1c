"""The host chooses a token from logits by filters, the inverse CDF, and the penalty for repetition."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import assume, given
from hypothesis import strategies as st

from gpt2spec.api import GenerateOptions
from gpt2spec.decoding import sampling
from gpt2spec.decoding.sampling import (
    LIKELY,
    choose,
    filtered_probabilities,
    inverse_cdf,
    likeliest,
    log_probabilities,
    log_sum_exp,
    penalised,
)

LOGITS = st.lists(st.floats(-20, 20), min_size=1, max_size=12).map(np.array)
TIES = st.lists(st.integers(-2, 2), min_size=1, max_size=60).map(lambda values: np.array(values, float))
UNIFORM = st.floats(0, 1, exclude_max=True)
GOLDEN = np.log(np.array([0.5, 0.3, 0.15, 0.05]))


def kept(values: Any, **options: Any) -> list[int]:
    return np.flatnonzero(filtered_probabilities(np.asarray(values, float), GenerateOptions(**options))).tolist()


# Filters


@pytest.mark.parametrize(
    ("p", "expected"),
    [(0.0, [0]), (0.4, [0]), (0.51, [0, 1]), (0.9, [0, 1, 2]), (0.96, [0, 1, 2, 3]), (1.0, [0, 1, 2, 3])],
)
def test_top_p_keeps_the_token_that_crosses_p(p: float, expected: list[int]) -> None:
    assert kept(GOLDEN, top_p=p) == expected
    assert kept(GOLDEN[::-1], top_p=p) == sorted(3 - i for i in expected)


@pytest.mark.parametrize(
    ("p", "expected"),
    [(0.0, [0]), (0.4, [0]), (0.51, [0]), (0.81, [0, 1]), (0.9, [0, 1]), (0.96, [0, 1, 2]), (1.0, [0, 1, 2, 3])],
)
def test_openais_rule_drops_the_token_that_crosses_p_but_keeps_one(p: float, expected: list[int]) -> None:
    assert kept(GOLDEN, top_p=p, top_p_rule="openai") == expected
    assert kept(GOLDEN[::-1], top_p=p, top_p_rule="openai") == sorted(3 - i for i in expected)


def test_top_p_stops_as_soon_as_p_is_reached() -> None:
    assert kept(np.zeros(4), top_p=0.5) == [0, 1]
    assert kept(np.zeros(4), top_p=0.75) == [0, 1, 2]
    assert kept(np.zeros(4), top_p=0.5, top_p_rule="openai") == [0, 1]


@pytest.mark.parametrize("rule", ["reach", "openai"])
@pytest.mark.parametrize("size", [10, LIKELY, 2 * LIKELY])
def test_a_p_of_1_keeps_even_what_rounding_would_lose(size: int, rule: str) -> None:
    tail = np.concatenate([[0.0], np.full(size - 1, -60.0)])  # each e-60 of the first: their sum is still 1
    assert kept(tail, top_p=1.0, top_p_rule=rule) == [*range(size)]
    assert kept(tail, top_p=1.0 - 1e-9, top_p_rule=rule) == [0]
    assert kept(tail, top_p=1.0, top_p_rule=rule, top_k=9) == [*range(9)]


@pytest.mark.parametrize(
    ("k", "expected"), [(1, [1]), (2, [1, 3]), (3, [0, 1, 3]), (5, [0, 1, 2, 3, 4]), (99, [*range(5)])]
)
def test_top_k_keeps_exactly_k(k: int, expected: list[int]) -> None:
    assert kept([1, 5, 0, 4, -1], top_k=k) == expected


@pytest.mark.parametrize(
    ("p", "expected"),
    [(0.0, [0, 1, 2, 3]), (0.09, [0, 1, 2, 3]), (0.11, [0, 1, 2]), (0.31, [0, 1]), (0.59, [0, 1]), (0.61, [0])],
)
def test_min_p_keeps_what_has_its_share_of_the_likeliest(p: float, expected: list[int]) -> None:
    assert kept(GOLDEN, min_p=p) == expected
    assert kept(GOLDEN[::-1], min_p=p) == sorted(3 - i for i in expected)


def test_a_min_p_of_1_keeps_the_likeliest_and_its_equals() -> None:
    assert kept([1, 2, 2, 1.999999], min_p=1.0) == [1, 2]
    assert kept(np.zeros(3 * LIKELY), min_p=1.0) == [*range(3 * LIKELY)]
    assert kept(np.zeros(3 * LIKELY), min_p=0.5, top_p=0.5) == [*range(3 * LIKELY // 2)]


def test_among_equals_the_lowest_ids_are_kept() -> None:
    assert kept([1, 2, 2, 2, 2], top_k=2) == [1, 2]
    assert kept([2, 1, 2, 2], top_p=0.5) == [0, 2]
    assert kept([2, 1, 2, 2], top_p=0.65, top_p_rule="openai") == [0, 2]
    for options in ({"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.0}):
        assert choose(np.array([1.0, 2.0, 2.0]), GenerateOptions(**options), 0.99) == 1


def test_kept_tokens_share_all_probability_in_their_proportion() -> None:
    found = filtered_probabilities(GOLDEN, GenerateOptions(top_p=0.9))
    np.testing.assert_allclose(found, np.array([0.5, 0.3, 0.15, 0.0]) / 0.95, rtol=1e-12)
    found = filtered_probabilities(GOLDEN, GenerateOptions(min_p=0.5))
    np.testing.assert_allclose(found, np.array([0.5, 0.3, 0.0, 0.0]) / 0.8, rtol=1e-12)


def test_temperature_comes_first_then_top_k_then_top_p_then_min_p() -> None:
    assert kept(GOLDEN, top_p=0.9, temperature=0.5) == [0, 1]  # .685 .247 ...
    assert kept(GOLDEN, top_p=0.9, temperature=3.0) == [0, 1, 2, 3]
    assert kept(GOLDEN, min_p=0.35, temperature=2.0) == [0, 1, 2]  # shares of 1, .775, .548, .316
    assert kept(GOLDEN, top_k=2, top_p=0.6) == [0]  # of the two, the first has .625
    assert kept(GOLDEN, top_p=0.6) == [0, 1]
    assert kept(GOLDEN, top_p=0.75, min_p=0.4) == [0, 1]  # min-p first would leave .625 and .375 of two
    assert kept(GOLDEN, top_p=0.85, min_p=0.4) == [0, 1]  # and cut after top-p


@given(LOGITS, st.floats(0.05, 5))
def test_probabilities_are_softmax_of_the_tempered_logits(z: np.ndarray, temperature: float) -> None:
    expected = np.exp(z / temperature - (z / temperature).max())
    found = filtered_probabilities(z, GenerateOptions(temperature=temperature))
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-12)


@given(LOGITS, st.floats(0.3, 3), st.none() | st.integers(1, 14), st.none() | st.floats(0, 1))
def test_filters_keep_the_smallest_set_of_the_likeliest(
    z: np.ndarray, temperature: float, k: int | None, p: float | None
) -> None:
    options = GenerateOptions(temperature=temperature, top_k=k, top_p=p)
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
    before = filtered_probabilities(z, GenerateOptions(temperature=temperature, top_k=k))
    assert before[chosen].sum() >= p - 1e-12
    assert chosen.size == 1 or before[chosen].sum() - before[chosen].min() < p + 1e-12


def by_sorting_all(z: np.ndarray, options: GenerateOptions) -> np.ndarray:
    """The plainest form of the definition; no running sum may be within rounding of top-p."""
    order = np.argsort(-z, kind="stable")[: options.top_k]
    p = np.exp((z[order] - z.max()) / options.temperature)
    p /= np.exp((z - z.max()) / options.temperature).sum() if options.top_k is None else p.sum()
    running = np.cumsum(p)
    count = p.size
    if options.top_p not in (None, 1.0):
        assume(np.abs(running - options.top_p).min() > 1e-9)
        crossing = int(np.searchsorted(running, options.top_p))  # how many stay below p
        count = min(count, crossing + 1) if options.top_p_rule == "reach" else max(1, crossing)
    if options.min_p is not None:
        assume(np.abs(p / p[0] - options.min_p)[p < p[0]].min(initial=1.0) > 1e-9)
        count = min(count, int((p / p[0] >= options.min_p).sum()))
    result = np.zeros(z.size)
    result[order[:count]] = p[:count] / p[:count].sum()
    return result


@given(
    st.integers(0, 2**32),
    st.sampled_from([3, LIKELY - 1, LIKELY, LIKELY + 1, 1500]),
    st.sampled_from([0.0, 0.01, 1.0, 5.0]),
    st.sampled_from([None, 0, 2]),
    st.none() | st.floats(0, 1),
    st.sampled_from(["reach", "openai"]),
    st.none() | st.floats(0, 1),
    st.sampled_from([None, None, 2, 700]),
)
def test_sorting_only_the_likeliest_gives_what_sorting_all_gives(
    seed: int,
    size: int,
    spread: float,
    decimals: int | None,
    p: float | None,
    rule: Any,
    min_p: float | None,
    k: int | None,
) -> None:
    """Logits are flat or peaked, with and without ties; vocabularies are smaller or larger than the sorted number."""
    z = spread * np.random.default_rng(seed).standard_normal(size)
    z = z if decimals is None else np.round(z, decimals)
    options = GenerateOptions(top_k=k, top_p=p, top_p_rule=rule, min_p=min_p, temperature=0.8)
    expected = by_sorting_all(z, options)
    found = filtered_probabilities(z, options)
    np.testing.assert_array_equal(found > 0, expected > 0)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(("spread", "sorted_sizes"), [(0.0, [512, 1500]), (6.0, [512])])
def test_all_are_sorted_only_where_the_likeliest_are_not_enough(
    spread: float, sorted_sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(sampling, "likeliest", lambda z, count: sizes.append(count) or likeliest(z, count))
    filtered_probabilities(spread * np.random.default_rng(0).standard_normal(1500), GenerateOptions(top_p=0.9))
    assert sizes == sorted_sizes


@given(TIES, st.integers(1, 70))
def test_the_likeliest_are_the_beginning_of_a_stable_sort(z: np.ndarray, count: int) -> None:
    expected = np.argsort(-z, kind="stable")[:count]
    assert likeliest(z, count).tolist() == expected.tolist()
    assert likeliest(z.astype(np.float32), count).tolist() == expected.tolist()
    z[z == -2] = -np.inf
    assert likeliest(z, count).tolist() == np.argsort(-z, kind="stable")[:count].tolist()


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
    assert choose(z, GenerateOptions(temperature=0.0), u) == int(np.argmax(z))
    assert choose(z, GenerateOptions(top_k=1), u) == int(np.argmax(z))


def test_float32_logits_are_chosen_from_in_float64() -> None:
    z = np.array([0.0, -18.0], np.float32)
    assert choose(z, GenerateOptions(temperature=1.0), 1 - 1e-9) == 1


def test_a_tiny_temperature_is_nearly_greedy() -> None:
    options = GenerateOptions(temperature=1e-320)
    assert choose(np.array([1.0, 3.0, 2.0], np.float32), options, 0.99) == 1
    assert filtered_probabilities(np.array([3.0, 1.0, 3.0]), options).tolist() == [0.5, 0.0, 0.5]


# What the model says


def test_log_probabilities_are_log_softmax_in_float64() -> None:
    z = 30 * np.random.default_rng(0).standard_normal((4, 50))
    expected = torch.log_softmax(torch.tensor(z), -1).numpy()
    np.testing.assert_allclose(log_probabilities(z), expected, rtol=1e-12)
    np.testing.assert_allclose(np.exp(log_probabilities(z)).sum(-1), 1.0, rtol=1e-12)
    single = log_probabilities(z.astype(np.float32))
    assert single.dtype == np.float64
    np.testing.assert_allclose(single, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_have_no_log_probabilities(bad: float) -> None:
    assert np.isnan(log_probabilities(np.array([1.0, bad, 2.0]))).any()
    assert not np.isfinite(log_sum_exp(np.array([1.0, bad, 2.0]))).any()
    assert log_probabilities(np.array([0.0, -np.inf])).tolist() == [0.0, -np.inf]


# Against the filters of transformers


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3, 5.0])
def test_the_penalty_is_that_of_transformers(penalty: float) -> None:
    r = np.random.default_rng(1)
    z, seen = r.standard_normal(40), r.integers(0, 40, 25).tolist()
    assert len(set(seen)) < len(seen), "a token that stands twice in a text is penalised once"
    z[seen[0]] = 0.0
    before = z.copy()
    theirs = transformers.RepetitionPenaltyLogitsProcessor(penalty)
    expected = theirs(torch.tensor([seen]), torch.tensor(z[None]))[0].numpy()
    assert penalised(z, seen, penalty).tolist() == expected.tolist()
    assert (z == before).all()


THEIRS: dict[str, Any] = {
    "temperature": transformers.TemperatureLogitsWarper,
    "top_k": transformers.TopKLogitsWarper,
    "top_p": transformers.TopPLogitsWarper,
    "min_p": transformers.MinPLogitsWarper,
}


@pytest.mark.parametrize(
    "options",
    [
        *({"temperature": t} for t in (0.3, 3.0)),
        *({"top_k": k} for k in (1, 7, 200, 10_000)),
        *({"top_p": p} for p in (0.0, 0.1, 0.5, 0.9, 0.99, 1.0)),
        *({"min_p": p} for p in (0.0, 0.01, 0.3, 1.0)),
        {"temperature": 0.7, "top_k": 50, "top_p": 0.8, "min_p": 0.1},
        {"temperature": 2.5, "top_k": 90, "top_p": 0.95, "min_p": 0.05},
        {"temperature": 1.7, "top_k": 100, "top_p": 0.7},
    ],
    ids=str,
)
@pytest.mark.parametrize("spread", [0.5, 2.0, 8.0])
def test_filters_are_those_of_transformers_in_its_order(options: dict[str, float], spread: float) -> None:
    z = spread * np.random.default_rng(2).standard_normal((8, 800))
    scores = torch.tensor(z)
    for name, value in options.items():
        scores = THEIRS[name](value)(None, scores)
    expected = scores.softmax(-1).numpy()
    for row, theirs in zip(z, expected, strict=True):
        found = filtered_probabilities(row, GenerateOptions(**options))
        np.testing.assert_array_equal(found > 0, theirs > 0)
        np.testing.assert_allclose(found, theirs, rtol=1e-10)


def test_the_order_of_filters_is_the_one_in_which_transformers_generates() -> None:
    config = transformers.GPT2Config(n_layer=1, n_head=1, n_embd=4, vocab_size=5, bos_token_id=None, eos_token_id=None)
    settings = {"temperature": 0.7, "top_k": 3, "top_p": 0.8, "min_p": 0.1, "repetition_penalty": 1.5}
    wanted = transformers.GenerationConfig(do_sample=True, **settings)
    made = transformers.GPT2LMHeadModel(config)._get_logits_processor(wanted, input_ids_seq_length=1)
    assert [type(step) for step in made] == [transformers.RepetitionPenaltyLogitsProcessor, *THEIRS.values()]
