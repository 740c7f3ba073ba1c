"""All randomness that affects results comes from NumPy's counter-based Philox generator.

Initial weights, data order and sampling draw from streams keyed by (seed, purpose, index), so that equal seeds give
equal bits on every backend and machine, whatever else was drawn before.
"""

import hashlib

import numpy as np

from gpt2spec.errors import ConfigError


def stream_key(seed: int, purpose: str, *index: int) -> int:
    """A 128-bit Philox key for the stream (seed, purpose, index...)."""
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ConfigError(f"a seed is a whole number of at least 0, not {seed!r}")
    text = "/".join([purpose, str(seed), *map(str, index)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def generator(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """A generator at the start of the stream (seed, purpose, index...)."""
    return np.random.Generator(np.random.Philox(key=stream_key(seed, purpose, *index)))


def uniforms(seed: int, purpose: str, *index: int, count: int) -> np.ndarray:
    """`count` numbers in [0, 1) from a stream, as float64 with the upper 24 of each 64 raw bits.

    float32 has 24 bits, too, so that it holds the same numbers, which are still less than 1.
    """
    raw = np.random.Philox(key=stream_key(seed, purpose, *index)).random_raw(count)
    return (raw >> np.uint64(40)) * 2.0**-24
