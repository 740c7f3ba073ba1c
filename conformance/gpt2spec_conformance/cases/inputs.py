"""The cases share these models, tokens and batches, which are tiny so that compilers are quick."""

import numpy as np

from gpt2spec.config import GPT2Config
from gpt2spec.random import generator

L2 = GPT2Config(n_layer=2, n_head=3, n_embd=24, n_ctx=16, vocab_size=61, dropout=0.0)
"""Three heads of width 8: nothing is a power of two by accident."""
L1 = L2.replace(n_layer=1)
MODELS = {"L1": L1, "L2": L2}
LONG = L1.replace(n_ctx=1024)
"""A model with as many positions as GPT-2 has."""
ROWS = 2


def token_batch(config: GPT2Config, rows: int = ROWS, positions: int | None = None, stream: int = 0) -> np.ndarray:
    """Random ids [rows, positions + 1]: tokens and, one further, targets. Some ids repeat within a row."""
    positions = positions or config.n_ctx
    tokens = generator(11, "conformance-tokens", stream).integers(0, config.vocab_size, (rows, positions + 1))
    tokens[:, positions // 2] = tokens[:, 0]  # embedding gradients of a repeated token add up
    return tokens.astype(np.int32)


def tokens_and_targets(config: GPT2Config, positions: int | None = None, stream: int = 0) -> tuple[np.ndarray, ...]:
    """Tokens and the tokens that follow them, each [B, T]."""
    batch = token_batch(config, positions=positions, stream=stream)
    return batch[:, :-1], batch[:, 1:]
