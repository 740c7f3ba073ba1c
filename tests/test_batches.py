"""Batches are known from one integer, visit every window once an epoch, and never cross a border."""

from collections import Counter
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2spec.data import Batches, Tokens, validation_batches
from gpt2spec.data.permutation import permuted
from gpt2spec.errors import ConfigError, DataError, InputError
from gpt2spec.random import stream_key

# Every token is its own position in the split, so that a window says where it came from.
lengths = st.lists(st.integers(0, 60), min_size=1, max_size=4)


def numbered(lengths: list[int], vocab_size: int = 1 << 16) -> Tokens:
    ends = np.cumsum([0, *lengths])
    return Tokens(tuple(np.arange(a, b, dtype=np.uint16) for a, b in pairwise(ends)), vocab_size)


def windows_of(lengths: list[int], context: int) -> list[int]:
    """The first tokens of all windows, computed without the code under test."""
    starts = np.cumsum([0, *lengths])
    return [int(s) + w for s, n in zip(starts, lengths, strict=False) for w in range(0, n - context, context)]


@settings(deadline=None)
@given(lengths, st.integers(1, 7), st.integers(1, 9), st.integers(0, 5))
def test_an_epoch_visits_every_window_once(lengths: list[int], context: int, batch_size: int, seed: int) -> None:
    expected = windows_of(lengths, context)
    if not expected:
        with pytest.raises(DataError, match=f"{sum(lengths)} tokens .*takes {context + 1}"):
            Batches(numbered(lengths), batch_size, context, seed)
        return
    batches = Batches(numbered(lengths), batch_size, context, seed)
    assert batches.windows == len(expected)
    rows = np.concatenate([batches.at(p)[0] for p in range(0, 2 * len(expected), batch_size)])
    for epoch in (0, 1):
        visited = rows[epoch * len(expected) : (epoch + 1) * len(expected), 0]
        assert sorted(visited.tolist()) == expected


@settings(deadline=None)
@given(lengths, st.integers(1, 7), st.integers(1, 9), st.integers(0, 500))
def test_windows_are_consecutive_tokens_of_one_shard(
    lengths: list[int], context: int, batch_size: int, position: int
) -> None:
    starts = windows_of(lengths, context)
    if not starts:
        return
    inputs, targets = Batches(numbered(lengths), batch_size, context, seed=1).at(position)
    assert inputs.dtype == targets.dtype == np.int32
    assert inputs.shape == targets.shape == (batch_size, context)
    assert (targets == inputs + 1).all()
    assert (np.diff(inputs, axis=1) == 1).all()
    ends = np.cumsum(lengths)
    assert (np.searchsorted(ends, inputs[:, 0], "right") == np.searchsorted(ends, targets[:, -1], "right")).all()
    assert set(inputs[:, 0].tolist()) <= set(starts)


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(1, 9), st.integers(1, 9))
def test_resuming_at_a_position_equals_going_straight_through(position: int, one: int, other: int) -> None:
    """The batch size may change, because a position counts windows, however they were grouped."""
    tokens = numbered([50, 31])
    straight = Batches(tokens, 1, 4, seed=3)
    expected = np.concatenate([straight.at(position + row)[0] for row in range(one + other)])
    resumed = [Batches(tokens, one, 4, seed=3).at(position)[0], Batches(tokens, other, 4, seed=3).at(position + one)[0]]
    assert (np.concatenate(resumed) == expected).all()


@settings(deadline=None)
@given(lengths, st.integers(1, 7), st.integers(1, 6), st.integers(1, 4), st.integers(0, 500))
def test_ranks_share_every_batch_whatever_their_number(
    lengths: list[int], context: int, share: int, ranks: int, position: int
) -> None:
    if not windows_of(lengths, context):
        return
    tokens, size = numbered(lengths), share * ranks
    whole = Batches(tokens, size, context, 5).at(position)
    parts = [Batches(tokens, size, context, 5, rank=rank, ranks=ranks).at(position) for rank in range(ranks)]
    for expected, found in zip(whole, zip(*parts, strict=True), strict=True):
        assert {len(part) for part in found} == {share}
        assert (np.concatenate(found) == expected).all()


@settings(deadline=None)
@given(lengths, st.integers(1, 7), st.integers(1, 4), st.integers(1, 4))
def test_an_epoch_visits_every_window_once_whatever_the_number_of_ranks(
    lengths: list[int], context: int, share: int, ranks: int
) -> None:
    expected = windows_of(lengths, context)
    if not expected:
        return
    size = share * ranks
    every = [Batches(numbered(lengths), size, context, 2, rank=rank, ranks=ranks) for rank in range(ranks)]
    steps = range(0, size * len(expected), size)  # `size` epochs, which is a whole number of batches
    visited = Counter(int(start) for batches in every for p in steps for start in batches.at(p)[0][:, 0])
    assert visited == dict.fromkeys(expected, size)


@pytest.mark.parametrize(("rank", "ranks"), [(2, 2), (-1, 2), (0, 3), (0, 0)])
def test_ranks_that_cannot_share_a_batch_are_refused(rank: int, ranks: int) -> None:
    with pytest.raises(ConfigError, match=r"no rank|cannot share"):
        Batches(numbered([100]), 8, 4, 0, rank=rank, ranks=ranks)


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    tokens = numbered([4001])
    orders = [
        tuple(Batches(tokens, 1000, 4, seed).at(1000 * epoch)[0][:, 0]) for seed in range(4) for epoch in range(4)
    ]
    assert len(set(orders)) == 16
    for one, other in permutations(orders, 2):
        assert np.mean(np.array(one) == np.array(other)) < 0.01


def test_the_order_is_the_same_for_ever() -> None:
    """The order is frozen, because a change would change every run that resumes."""
    order = Batches(numbered([41]), 10, 4, seed=0).at(0)[0][:, 0] // 4
    assert order.tolist() == [8, 6, 9, 1, 0, 4, 5, 7, 2, 3]


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(0, 2**128 - 1))
def test_permuted_is_a_permutation(count: int, key: int) -> None:
    assert sorted(permuted(np.arange(count), count, key).tolist()) == list(range(count))


def test_a_place_in_a_huge_corpus_is_found_without_the_others() -> None:
    places = np.array([0, 1, 10**12 - 1])
    found = permuted(places, 10**12, key=5)
    assert ((found >= 0) & (found < 10**12)).all()
    assert len(set(found.tolist())) == 3


def keys(count: int) -> list[int]:
    return [stream_key(0, "data order", epoch) for epoch in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_every_order_of_a_few_windows_is_about_equally_frequent(count: int) -> None:
    """The bounds of chi-squared are its 0.9999 quantiles for 0, 1, 5 and 23 degrees of freedom."""
    draws = 2400
    found = Counter(tuple(permuted(np.arange(count), count, key).tolist()) for key in keys(draws))
    orders = list(permutations(range(count)))
    expected = draws / len(orders)
    chi_squared = sum((found[order] - expected) ** 2 / expected for order in orders)
    assert chi_squared <= {1: 0, 2: 15.14, 3: 25.74, 4: 58.0}[count]


@pytest.mark.parametrize("count", [5, 16, 17, 100])
def test_every_window_comes_equally_often_at_every_place(count: int) -> None:
    """So does every pair: any window may follow any other. Chi-squared is within 5 standard deviations."""
    draws = 1500
    orders = np.stack([permuted(np.arange(count), count, key) for key in keys(draws)])
    places = np.stack([np.bincount(column, minlength=count) for column in orders.T])
    steps = np.bincount(((orders[:, 1:] - orders[:, :-1]) % count).ravel(), minlength=count)[1:]
    for observed in (places.ravel(), steps):
        degrees = (count - 1) ** 2 if observed.size == count**2 else count - 2
        chi_squared = ((observed - observed.mean()) ** 2 / observed.mean()).sum()
        assert abs(chi_squared - degrees) < 5 * np.sqrt(2 * degrees) + 5


def test_neighbouring_places_are_far_apart_in_a_large_corpus() -> None:
    count = 100_000
    order = permuted(np.arange(count), count, key=7)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(np.arange(count), order)[0, 1]) < 0.02
    assert np.mean(np.abs(np.diff(order)) < 100) < 0.004


def test_a_token_outside_the_vocabulary_is_named_when_it_is_read() -> None:
    tokens = numbered([21], vocab_size=20)
    batches = Batches(tokens, batch_size=5, context=4, seed=0)
    with pytest.raises(InputError, match=r"the token 20, but ids run from 0 to 19"):
        batches.at(0)
    with pytest.raises(InputError, match="the token 20"):
        list(validation_batches(tokens, 1, 4))


@pytest.mark.parametrize(("batch_size", "context", "seed"), [(0, 4, 0), (4, 0, 0), (4, 4, -1)])
def test_sizes_and_seeds_that_make_no_sense_are_refused(batch_size: int, context: int, seed: int) -> None:
    with pytest.raises(ConfigError, match="at least"):
        Batches(numbered([100]), batch_size, context, seed)


def test_a_position_before_the_beginning_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 0, not -1"):
        Batches(numbered([100]), 4, 4, 0).at(-1)


@settings(deadline=None)
@given(lengths, st.integers(1, 7), st.integers(1, 5), st.integers(1, 12) | st.none())
def test_validation_goes_through_the_windows_in_order(
    lengths: list[int], context: int, batch_size: int, limit: int | None
) -> None:
    tokens = numbered(lengths)
    expected = windows_of(lengths, context)[:limit]
    if not expected:
        return
    batches = list(validation_batches(tokens, batch_size, context, limit))
    assert [start for inputs, _ in batches for start in inputs[:, 0].tolist()] == expected
    assert [len(inputs) for inputs, _ in batches[:-1]] == [batch_size] * (len(batches) - 1)
    for inputs, targets in batches:
        assert inputs.shape == targets.shape == (len(inputs), context)
        assert (targets == inputs + 1).all()


def test_a_short_validation_split_is_one_shorter_window() -> None:
    ((inputs, targets),) = validation_batches(numbered([6]), 4, 100, limit=8)
    assert (inputs.tolist(), targets.tolist()) == ([[0, 1, 2, 3, 4]], [[1, 2, 3, 4, 5]])
    ((inputs, _),) = validation_batches(numbered([2, 5]), 4, 100)
    assert inputs.tolist() == [[2, 3, 4, 5]], "the longest shard gives the window"


@pytest.mark.parametrize("lengths", [[], [0], [1], [1, 1]])
def test_a_validation_split_without_a_target_is_an_error_at_once(lengths: list[int]) -> None:
    with pytest.raises(DataError, match=rf"validation split has {sum(lengths)} tokens, too few"):
        validation_batches(numbered(lengths), 4, 8)
