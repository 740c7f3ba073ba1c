"""This module shuffles any number of windows without memory: the place of each is computed when it is needed."""

from __future__ import annotations

import numpy as np

from gpt2spec.random import stream_key


def permuted(places: np.ndarray, count: int, key: int) -> np.ndarray:
    """The images of `places` [B] under a pseudo-random permutation of 0 … count - 1, chosen by a 128-bit `key`.

    A Feistel network permutes 0 … 2^(2h) - 1, the smallest such range that includes all of them; a result outside
    0 … count - 1 is permuted again until it lies inside ("cycle walking"). So one image is computed without the
    others, and memory does not grow with the corpus.

    Source: Black and Rogaway, "Ciphers with Arbitrary Finite Domains" (2002).
    """
    half_bits = max(1, ((count - 1).bit_length() + 1) // 2)
    round_keys = np.random.Philox(key=key).random_raw(_ROUNDS)
    values = places.astype(np.uint64)
    outside = np.ones(len(values), bool)
    while outside.any():
        values[outside] = _feistel(values[outside], half_bits, round_keys)
        outside = values >= count
    return values.astype(np.int64)


def in_order(numbers: np.ndarray, count: int, seed: int, *index: int) -> np.ndarray:
    """Which of `count` windows stand at places `numbers` [B] of the endless sequence of shuffled epochs."""
    epochs, places = np.divmod(numbers, count)
    order = np.empty(len(numbers), np.int64)
    for epoch in np.unique(epochs):
        rows = epochs == epoch
        order[rows] = permuted(places[rows], count, stream_key(seed, "data order", *index, int(epoch)))
    return order


_ROUNDS = 10


def _feistel(values: np.ndarray, half_bits: int, round_keys: np.ndarray) -> np.ndarray:
    """One pass of the network over uint64 values of 2 `half_bits` bits; each round maps (L, R) to (R, L ^ F(R))."""
    bits, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & mask
    for round_key in round_keys:
        left, right = right, left ^ (_mixed(right ^ round_key) & mask)
    return (left << bits) | right


def _mixed(x: np.ndarray) -> np.ndarray:
    """SplitMix64's output function: every bit of the result depends on every bit of x, modulo 2^64.

    Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators" (2014).
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
