"""This module divides texts longer than the context into windows, so that every token is predicted once."""

from collections.abc import Iterator
from typing import NamedTuple

from gpt2spec.errors import ConfigError


class Window(NamedTuple):
    """A stretch of a text that a model reads at once.

    Attributes:
        begin: the first token that is read.
        first: the first token that is predicted here; those before it were predicted in earlier windows.
        end: one past the last token that is predicted, which itself is not read.
    """

    begin: int
    first: int
    end: int


def windows(length: int, n_ctx: int, stride: int) -> Iterator[Window]:
    """Windows over tokens 0 to `length` - 1, of which all but token 0 are predicted, in order, once each.

    A model reads `n_ctx` tokens at a time. The first window predicts the token after each of the first `n_ctx`; every
    further window moves on by `stride` and predicts so many new tokens. From the second window on, a token therefore
    has at least n_ctx - stride + 1 tokens before it, and at most n_ctx. The last window is moved back to be full.
    With `stride` = `n_ctx`, all windows but the last are disjoint. With `stride` = 1, every token has a whole context,
    at the price of a forward pass for each.
    """
    if not 1 <= stride <= n_ctx:
        raise ConfigError(f"a stride lies from 1 to the context of {n_ctx} tokens, not {stride}")
    first = 1
    while first < length:
        end = min(length, n_ctx + 1 if first == 1 else first + stride)
        yield Window(max(0, end - n_ctx - 1), first, end)
        first = end
