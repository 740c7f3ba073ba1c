"""Tokens are chosen on the device and copied later; texts may be longer than the context."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from decoding_models import EXACT, OPTIONS, PROMPTS, SMALL, Model, Recording, asynchronous, framework
from gpt2spec_numpy.create import create
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2spec.api import GenerateOptions, Generation, Generator, Piece, generate
from gpt2spec.decoding.chooser import AHEAD
from gpt2spec.errors import InputError

CONFIG, PARAMS = SMALL.config, SMALL.params
HOST = Generator(create(dtype="float64", mode="fast"), CONFIG, PARAMS)
DEVICE = Generator(asynchronous(create(dtype="float64")), CONFIG, PARAMS)
NARROW = {n_ctx: Model(CONFIG.replace(n_ctx=n_ctx, n_layer=1)) for n_ctx in (1, 2, 3, 9, 70)}


def assert_equal_texts(found: list[Generation], expected: list[Generation]) -> None:
    """Assert that all tokens are equal, and probabilities up to rounding."""
    for one, other in zip(found, expected, strict=True):
        assert (one.prompt, one.sample, one.finish_reason) == (other.prompt, other.sample, other.finish_reason)
        assert one.tokens == other.tokens
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-9)


def collected(generator: Generator, pieces: Iterator[Piece], **options: Any) -> list[Generation]:
    of: dict[tuple[int, int], list[Piece]] = {}
    for piece in pieces:
        of.setdefault((piece.prompt, piece.sample), []).append(piece)
    return [generator.collect(of[place], GenerateOptions(**options)) for place in sorted(of)]


# On the device


@pytest.mark.parametrize("options", OPTIONS)
def test_tokens_chosen_on_the_device_are_those_the_host_chooses(options: str) -> None:
    """The look-ahead crosses buckets; streaming copies each token."""
    wanted = {**OPTIONS[options], "max_new_tokens": 2 * AHEAD + 6}
    expected = HOST.generate(PROMPTS, **wanted)
    assert_equal_texts(DEVICE.generate(PROMPTS, **wanted), expected)
    assert_equal_texts(collected(DEVICE, DEVICE.stream(PROMPTS, **wanted), **wanted), expected)


@pytest.mark.parametrize("count", [1, 2, AHEAD - 1, AHEAD, AHEAD + 1, 70])
def test_any_number_of_tokens_can_be_chosen_on_the_device(count: int) -> None:
    assert_equal_texts(DEVICE.generate(PROMPTS, max_new_tokens=count), HOST.generate(PROMPTS, max_new_tokens=count))


def test_the_device_fills_the_context_to_the_last_position() -> None:
    for length in (80, 140, 149):
        wanted = {"max_new_tokens": 150 - length, "repetition_penalty": 1.1}
        prompts = [[length % 37] * length, [1, 2]]
        assert_equal_texts(DEVICE.generate(prompts, **wanted), HOST.generate(prompts, **wanted))


@pytest.mark.parametrize("options", ["greedy", "all"])
def test_stop_tokens_count_wherever_in_the_look_ahead_they_come(options: str) -> None:
    """The tokens that the device chose after them are dropped, and the other rows are not affected."""
    prompts = [[i, 36 - i, i] for i in range(12)]
    wanted: dict[str, Any] = {**OPTIONS[options], "max_new_tokens": 2 * AHEAD + 9}
    free = [generation.tokens for generation in HOST.generate(prompts, **wanted)]
    ends = {stop: {(*tokens, stop).index(stop) for tokens in free} for stop in range(CONFIG.vocab_size)}
    wanted["stop_tokens"] = [max(ends, key=lambda stop: len(ends[stop]))]
    expected = HOST.generate(prompts, **wanted)
    lengths = {len(generation.tokens) for generation in expected}
    assert len(lengths) > 3
    assert min(lengths) < AHEAD < max(lengths)
    assert_equal_texts(DEVICE.generate(prompts, **wanted), expected)
    assert_equal_texts(DEVICE.generate(prompts, batch_size=3, **wanted), expected)
    assert_equal_texts(collected(DEVICE, DEVICE.stream(prompts, **wanted), **wanted), expected)


def test_nothing_is_read_from_the_device_while_it_runs_ahead() -> None:
    backend = asynchronous(Recording())
    assert isinstance(backend, Recording)
    generator = Generator(backend, CONFIG, PARAMS)
    backend.calls.clear()
    generator.generate(PROMPTS, max_new_tokens=2 * AHEAD + 6)
    work = ["".join("r" if call == "to_numpy" else "w" for call in backend.calls)]
    assert [len(list(run)) for kind, run in itertools.groupby(work[0]) if kind == "r"] == [1, 1, 1]
    assert backend.calls.count("append") == 2 * AHEAD + 5
    assert backend.calls.count("choose") == 2 * AHEAD + 6


def test_streaming_looks_at_every_token_before_the_next_is_made() -> None:
    backend = asynchronous(Recording())
    assert isinstance(backend, Recording)
    pieces = Generator(backend, CONFIG, PARAMS).stream([[1, 2]], max_new_tokens=5)
    assert backend.calls == ["compute_params"]
    for count in range(1, 6):
        next(pieces)
        assert backend.calls.count("choose") == count
        assert backend.calls.count("append") == count - 1


def test_alternatives_are_looked_up_on_the_host_even_so() -> None:
    wanted = {"max_new_tokens": 20, "alternatives": 3}
    assert DEVICE.generate(PROMPTS, **wanted) == generate(EXACT, CONFIG, PARAMS, PROMPTS, **wanted)


def test_no_program_is_made_for_another_seed_or_length_or_stop_token() -> None:
    backend = asynchronous(Recording())
    assert isinstance(backend, Recording)
    generator = Generator(backend, CONFIG, PARAMS)
    backend.programs.clear()
    generator.generate([[1, 2, 3], [4]], max_new_tokens=70, top_p=0.9, repetition_penalty=1.2)
    assert sorted(name for name, _ in backend.programs) == ["append", "append", "choose", "read"]
    backend.programs.clear()
    wanted = {"top_p": 0.9, "repetition_penalty": 1.2}
    generator.generate([[7], [9] * 20], max_new_tokens=90, seed=3, stop_tokens=[99], **wanted)
    generator.generate([[7], [9] * 20], max_new_tokens=90, batch_size=2, length_penalty=1.0, **wanted)
    list(generator.stream([[7, 2]], max_new_tokens=65, samples=2, seed=1, **wanted))
    assert {name for name, _ in backend.programs} <= {"<lambda>", "read"}, "one prompt's reading and its copies"


def test_jax_compiles_nothing_when_the_same_is_asked_of_other_prompts() -> None:
    backend = asynchronous(framework("jax"))
    import jax

    lowered: list[str] = []

    def count(event: str, seconds: float, **_: Any) -> None:
        if event == "/jax/core/compile/jaxpr_to_mlir_module_duration":
            lowered.append(event)

    generator = Generator(backend, NARROW[70].config, NARROW[70].params)
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        generator.generate([[1, 2, 3], [4]], max_new_tokens=65, top_k=5)
        assert 0 < len(lowered) < 20
        lowered.clear()
        generator.generate([[7, 8, 9], [1]], max_new_tokens=66, top_k=5, seed=3, stop_tokens=[99])
        assert lowered == []
    finally:
        jax.monitoring.unregister_event_duration_listener(count)


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.0}], ids=str)
def test_weights_that_give_no_finite_logits_are_told_from_the_device_too(settings: dict[str, Any]) -> None:
    broken = {**PARAMS, "ln_f.bias": np.full_like(PARAMS["ln_f.bias"], np.nan)}
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(InputError, match="the model's logits are not finite"),
    ):
        generate(DEVICE.backend, CONFIG, broken, [[1]], max_new_tokens=2, **settings)


# Longer than the context


@pytest.mark.parametrize("device", [False, True], ids=["host", "device"])
@pytest.mark.parametrize("n_ctx", NARROW)
def test_texts_slide_on_from_the_last_half_of_the_context_when_it_is_full(n_ctx: int, device: bool) -> None:
    """Prompts are shorter than the context, as long, or longer; in one batch, each text is as it would be alone."""
    model = NARROW[n_ctx]
    generator = Generator(DEVICE.backend if device else EXACT, model.config, model.params)
    lengths = sorted({1, max(1, n_ctx // 2), max(1, n_ctx - 1), n_ctx, n_ctx + 1, 2 * n_ctx + 3})
    prompts = [[(5 * i + length) % 37 for i in range(length)] for length in lengths]
    count = 2 * n_ctx + 5 if n_ctx < 10 else n_ctx + 20
    for options in ("greedy", "top-k", "all") if n_ctx < 10 else ("all",):
        wanted = {**OPTIONS[options], "overflow": "slide"}
        found = generator.generate(prompts, max_new_tokens=count, **wanted)
        for prompt, generation in zip(prompts, found, strict=True):
            assert generation.tokens == model.tokens(prompt, count, **wanted)
            assert generation.finish_reason == "length"


@settings(max_examples=15)
@given(st.data())
def test_sliding_texts_do_not_depend_on_each_other(data: st.DataObject) -> None:
    model = NARROW[9]
    lengths = data.draw(st.lists(st.integers(1, 25), min_size=1, max_size=5))
    prompts = [[data.draw(st.integers(0, 36))] * length for length in lengths]
    count, stop = data.draw(st.integers(1, 30)), data.draw(st.lists(st.integers(0, 36), max_size=2))
    backend = DEVICE.backend if data.draw(st.booleans()) else EXACT
    wanted: dict[str, Any] = {"max_new_tokens": count, "overflow": "slide", "stop_tokens": stop}
    found = generate(
        backend, model.config, model.params, prompts, batch_size=data.draw(st.integers(1, 5)), samples=2, **wanted
    )
    streams: dict[tuple[int, ...], int] = {}
    for generation in found:
        prompt = prompts[generation.prompt]
        stream = streams.get(tuple(prompt), 0)
        streams[tuple(prompt)] = stream + 1
        expected = model.tokens(prompt, count, stream, overflow="slide")
        assert generation.tokens == list(itertools.takewhile(lambda token: token not in stop, expected))


def test_texts_are_read_again_only_when_the_context_is_full() -> None:
    """Nine tokens are read, and the ninth gives a tenth; then the last four are read, and so on after each five."""
    backend = Recording()
    generator = Generator(backend, NARROW[9].config, NARROW[9].params)
    for prompt, count, reads in [(4, 6, 1), (4, 7, 2), (4, 12, 2), (4, 13, 3), (9, 1, 1), (9, 2, 2), (10, 6, 1)]:
        backend.calls.clear()
        generator.generate([[1] * prompt], max_new_tokens=count, overflow="slide")
        assert backend.calls.count("read") == reads, (prompt, count)
        assert backend.calls.count("read") + backend.calls.count("append") == count
    backend.calls.clear()
    generator.generate([[1] * 4], max_new_tokens=5)
    assert backend.calls.count("read") == 1


def test_texts_that_fit_slide_nowhere() -> None:
    wanted = {"max_new_tokens": 80, "seed": 4}
    assert HOST.generate(PROMPTS, overflow="slide", **wanted) == HOST.generate(PROMPTS, **wanted)
