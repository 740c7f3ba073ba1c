"""Streams of random numbers have equal bits for equal keys, and different bits for different keys."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2spec.errors import ConfigError
from gpt2spec.random import generator, stream_key, uniforms

SEEDS = st.integers(0, 2**70)
INDEX = st.lists(st.integers(0, 10**6), max_size=3)


def test_the_key_is_as_specified() -> None:
    """The key is BLAKE2b, 16 bytes, little endian, of purpose/seed/index, so that others can get the same bits."""
    assert (
        stream_key(0, "sampling", 3).to_bytes(16, "little").hex() == "9a8285f6a2ebc1c4ec58cb7f2bf89427"
    )  # of "sampling/0/3"


def test_uniforms_are_these_numbers_forever() -> None:
    expected = [0.6879001438336464, 0.01721692872599645, 0.6453588556236894]  # before what float32 has no bits for
    assert (uniforms(0, "sampling", 3, count=3) * 2**24).tolist() == [int(u * 2**24) for u in expected]


@given(SEEDS, INDEX)
def test_a_stream_begins_anew_each_time(seed: int, index: list[int]) -> None:
    first = generator(seed, "x", *index).random(3)
    generator(seed, "y", *index).random(100)
    assert (generator(seed, "x", *index).random(3) == first).all()


@given(SEEDS, SEEDS, INDEX, INDEX, st.sampled_from("xy"), st.sampled_from("xy"))
def test_streams_differ_when_anything_of_their_key_does(
    seed: int, other_seed: int, index: list[int], other_index: list[int], purpose: str, other_purpose: str
) -> None:
    same = (seed, purpose, index) == (other_seed, other_purpose, other_index)
    assert (stream_key(seed, purpose, *index) == stream_key(other_seed, other_purpose, *other_index)) == same


def test_neighbouring_digits_do_not_run_together() -> None:
    assert len({stream_key(1, "x", 23), stream_key(12, "x", 3), stream_key(1, "x", 2, 3), stream_key(123, "x")}) == 4


def test_fewer_numbers_are_the_beginning_of_more() -> None:
    assert (uniforms(5, "x", count=4) == uniforms(5, "x", count=100)[:4]).all()


def test_a_uniform_number_is_the_same_in_float32_and_less_than_1_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a number just below 1 could be rounded to 1, which no running sum of probabilities exceeds."""
    x = uniforms(7, "x", count=1000)
    assert (x.astype(np.float32) == x).all()
    largest = type(
        "Largest",
        (),
        {"__init__": lambda self, key: None, "random_raw": lambda self, n: np.full(n, 2**64 - 1, np.uint64)},
    )
    monkeypatch.setattr(np.random, "Philox", largest)
    assert uniforms(0, "x", count=1).astype(np.float32) == 1 - 2**-24


def test_uniforms_fill_the_interval_evenly_without_1() -> None:
    x = np.sort(uniforms(7, "x", count=20_000))
    assert 0.0 <= x[0] < x[-1] < 1.0
    assert x.dtype == np.float64
    assert np.abs(x - (np.arange(20_000) + 0.5) / 20_000).max() < 1.6 / 20_000**0.5  # Kolmogorov, 1 in 100


@pytest.mark.parametrize("seed", [-1, 1.0, True, "1", None])
def test_a_seed_is_a_whole_number_of_at_least_0(seed: object) -> None:
    with pytest.raises(ConfigError, match=f"a seed is a whole number of at least 0, not {seed!r}"):
        stream_key(seed, "x")  # type: ignore[arg-type]
