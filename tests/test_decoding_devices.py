"""Filters and tokens of every backend in float32 are compared with the host's in float64.

A framework that is not installed skips its tests, except where the variable CI is "true": there it fails them.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from decoding_models import EXACT, FRAMEWORKS, OPTIONS, SMALL, Margins, Model, framework

from gpt2spec.api import GenerateOptions, Generation, Generator
from gpt2spec.backend import Backend
from gpt2spec.decoding import on_device, sampling
from gpt2spec.random import uniforms

FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "cold": {"temperature": 0.5},
    "nearly greedy": {"temperature": 1e-320},
    "top-k of 1": {"top_k": 1, "temperature": 3.0},
    "top-k": {"top_k": 7},
    "top-k of more than there are": {"top_k": 99},
    "top-p of 0": {"top_p": 0.0},
    "top-p": {"top_p": 0.83},
    "top-p of 1": {"top_p": 1.0},
    "top-p by OpenAI's rule": {"top_p": 0.83, "top_p_rule": "openai"},
    "top-p of 0 by OpenAI's rule": {"top_p": 0.0, "top_p_rule": "openai"},
    "min-p": {"min_p": 0.23},
    "min-p of 1": {"min_p": 1.0},
    "all": {"temperature": 1.7, "top_k": 12, "top_p": 0.87, "min_p": 0.011},
    "all, and hot": {"temperature": 9.0, "top_k": 14, "top_p": 0.71, "min_p": 0.3, "top_p_rule": "openai"},
}
SLOWLY = ("all", "all, and hot")
"""The cases for tinygrad, which takes seconds to compile each."""
MODEL = Model(SMALL.config.replace(n_layer=1, vocab_size=16))
PROMPTS = [[1, 2, 3], [5] * 20, [9]]
ENOUGH = 3e-5
"""Logits may move by this much without another token being chosen: float32's rounding moves them by less."""


def some_logits() -> np.ndarray:
    """Logits, float32 [9, 16], that are flat or peaked, with and without ties."""
    z = np.random.default_rng(4).standard_normal((9, 16)) * np.array([[0.1, 1, 1, 2, 2, 3, 5, 8, 1]]).T
    z[[2, 4]] = np.round(z[[2, 4]])
    z[6] = np.round(z[6], 1)
    z[8] = 0.5
    return z.astype(np.float32)


@pytest.fixture(scope="module", params=FRAMEWORKS)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    found = framework(request.param)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more only wait for each other on so small models
    yield found
    torch.set_num_threads(threads)


# Filters


@pytest.mark.parametrize(
    ("backend", "name"),
    [(framework, name) for framework in FRAMEWORKS for name in (FILTERS if framework != "tinygrad" else SLOWLY)],
    indirect=["backend"],
)
def test_filtered_probabilities_and_tokens_are_the_hosts(backend: Backend, name: str) -> None:
    """Tokens are equal, too, unless the uniform number is within 1e-6 of the border between two tokens."""
    z, options = np.tile(some_logits(), (40, 1)), GenerateOptions(**FILTERS[name])
    uniform = np.random.default_rng(5).random(len(z))
    uniform[:9] = 0.0
    uniform[9:18] = 1 - 2**-24  # the largest there is

    def run(logits: Any, uniform: Any) -> Any:
        found = on_device.filtered_probabilities(backend.ops, logits, options)
        return found, on_device.choose(backend.ops, logits, uniform, options)

    found, tokens = map(backend.to_numpy, backend.jit(run)(backend.put(z), backend.put(uniform)))
    assert tokens.dtype == np.int32
    expected = np.array([sampling.filtered_probabilities(row, options) for row in z])
    np.testing.assert_array_equal(found > 0, expected > 0)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (expected[np.arange(len(z)), tokens] > 0).all()
    for row, token, u, edges in zip(z, tokens, uniform, np.cumsum(expected, -1), strict=True):
        if u == 0.0 or options.greedy or np.abs(edges - u).min() > 1e-6:
            assert token == sampling.choose(row, options, float(u))


def test_probabilities_need_not_add_up_to_1(backend: Backend) -> None:
    p, uniform = backend.put(np.array([[0.1, 0.3], [1.0, 3.0]])), [backend.put(np.full(2, u)) for u in (0.24, 0.26)]
    found = [backend.to_numpy(on_device.inverse_cdf(backend.ops, p, u)).tolist() for u in uniform]
    assert found == [[0, 0], [1, 1]]


def test_the_last_token_with_a_probability_is_drawn_by_the_largest_number(backend: Backend) -> None:
    """There are 49 totals, from 1 to just below 2."""
    totals = np.linspace(1.0, 2.0, 49, dtype=np.float32, endpoint=False)
    p = np.stack([0.5 * totals, 0.5 * totals, 0 * totals], 1)
    found = on_device.inverse_cdf(backend.ops, backend.put(p), backend.put(np.full(49, 1 - 2**-24)))
    assert backend.to_numpy(found).tolist() == [1] * 49


def test_a_sum_that_grows_by_rounding_draws_no_token_without_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parallel sums may grow so, because they add in another order at every place."""
    ops = EXACT.ops
    monkeypatch.setattr(ops, "cumulative_sum", lambda x, axis: np.array([[0.5, 0.5 + 1e-9, 1.0]]), raising=True)
    found = on_device.inverse_cdf(ops, np.array([[0.5, 0.0, 0.5]]), np.array([0.5]))
    assert found.tolist() == [2]


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3])
def test_the_penalty_is_the_hosts(penalty: float, backend: Backend) -> None:
    z = some_logits()
    seen = np.random.default_rng(6).random(z.shape) < 0.3
    marks = backend.put(seen.astype(float))
    found = backend.to_numpy(on_device.penalised(backend.ops, backend.put(z), marks > 0.0, penalty))
    expected = [sampling.penalised(row, np.flatnonzero(marked), penalty) for row, marked in zip(z, seen, strict=True)]
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-6)


def test_log_probabilities_are_the_hosts(backend: Backend) -> None:
    z, tokens = some_logits(), np.arange(9)
    found = backend.to_numpy(on_device.log_probability(backend.ops, backend.put(z), backend.put(tokens)))
    np.testing.assert_allclose(found, sampling.log_probabilities(z)[np.arange(9), tokens], rtol=1e-5, atol=1e-5)


# Tokens


def steady(prompt: list[int], tokens: list[int], **settings: Any) -> bool:
    """Whether logits that are off by up to `ENOUGH` give the same tokens."""
    options = GenerateOptions(**settings)
    draws = uniforms(options.seed, "sampling", 0, *prompt, count=len(tokens))
    r = np.random.default_rng(7)
    for i, (token, u) in enumerate(zip(tokens, draws, strict=True)):
        ids = prompt + tokens[:i]
        exact = MODEL.logits_after(ids)
        for noise in (0.0, *r.uniform(-ENOUGH, ENOUGH, (8, exact.size))):
            z = sampling.penalised(exact + noise, ids, options.repetition_penalty)
            if sampling.choose(z, options, float(u)) != token:
                return False
    return True


ASKED = {name: OPTIONS[name] for name in ("greedy", "plain", "repetition penalty")}
ASKED["all"] = {**OPTIONS["all"], "top_k": 9}


@pytest.fixture(scope="module")
def exact() -> dict[str, list[Generation]]:
    """The exact results of every kind of choice and of a beam search, none of which depends on rounding."""
    generator = Generator(EXACT, MODEL.config, MODEL.params)
    found = {name: generator.generate(PROMPTS, max_new_tokens=20, **options) for name, options in ASKED.items()}
    for name, generations in found.items():
        for prompt, generation in zip(PROMPTS, generations, strict=True):
            assert steady(prompt, generation.tokens, **ASKED[name]), f"{name} {prompt[:3]}: choose another seed"
    with pytest.MonkeyPatch.context() as patch:
        margins = Margins(patch)
        found["beams"] = generator.generate(PROMPTS[:1], max_new_tokens=20, beams=3, samples=3)
    assert margins.smallest > ENOUGH, f"two candidates are {margins.smallest} apart: choose another prompt"
    return found


def assert_equal_texts(found: list[Generation], expected: list[Generation]) -> None:
    """Assert that tokens are equal, and log-probabilities up to float32's precision."""
    for one, other in zip(found, expected, strict=True):
        assert one.tokens == other.tokens
        assert one.logprobs == pytest.approx(other.logprobs, abs=2e-5)


@pytest.mark.parametrize(
    ("backend", "device"),
    [(name, device) for name in FRAMEWORKS for device in (False, True) if device or name != "tinygrad"],
    indirect=["backend"],
)
def test_tokens_in_float32_are_those_in_float64(
    backend: Backend, device: bool, exact: dict[str, list[Generation]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host or the backend's own operations choose them, with a look-ahead or one by one."""
    assert not backend.capabilities.asynchronous, "a CPU's results are there when a call returns"
    monkeypatch.setattr(backend, "capabilities", dataclasses.replace(backend.capabilities, asynchronous=device))
    generator = Generator(backend, MODEL.config, MODEL.params)
    for name, wanted in ASKED.items() if not device else [(name, ASKED[name]) for name in ("greedy", "plain", "all")]:
        assert_equal_texts(generator.generate(PROMPTS, max_new_tokens=20, **wanted), exact[name])
        pieces = list(generator.stream(PROMPTS, max_new_tokens=20, **wanted))
        streamed = [generator.collect(pieces[i::3], GenerateOptions()) for i in range(3)]
        assert_equal_texts(streamed, exact[name])


def test_beams_in_float32_are_those_in_float64(backend: Backend, exact: dict[str, list[Generation]]) -> None:
    generator = Generator(backend, MODEL.config, MODEL.params)
    assert_equal_texts(generator.generate(PROMPTS[:1], max_new_tokens=20, beams=3, samples=3), exact["beams"])
