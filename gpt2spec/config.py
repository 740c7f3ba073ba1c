"""The configuration of a GPT-2, which is one frozen, validated dataclass, and the named sizes.

Sources: "Language Models are Unsupervised Multitask Learners" (Radford et al. 2019), table 2 and
section 2.3; the released `hparams.json` files for the head counts.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from gpt2spec.errors import ConfigError, nearest

VOCAB_SIZE = 50257
"""Entries of the released byte-level BPE: 256 bytes, 50,000 merges and `<|endoftext|>`."""

BYTE_VOCAB_SIZE = 257
"""Entries of a byte-level vocabulary without merges: 256 bytes and `<|endoftext|>`."""


@dataclass(frozen=True)
class GPT2Config:
    """Everything that decides what a GPT-2 computes, apart from its weights.

    Attributes:
        n_layer: number of transformer blocks L.
        n_head: attention heads H; `n_embd` is a multiple of it.
        n_embd: width D of the residual stream; the MLP is 4 D wide.
        n_ctx: the largest number of positions in a sequence.
        vocab_size: token ids run from 0 to `vocab_size - 1`.
        layer_norm_epsilon: is added to the biased variance, inside the root.
        dropout: the dropout rate of the embedding sum and of both residual branches, in training only.
        attn_dropout: the dropout rate of the attention probabilities (GPT-1 has it, GPT-2's paper does not mention it).
        initializer_range: the standard deviation of all initial matrices.
        wpe_initializer_range: the standard deviation of the initial position embedding (0.01 in OpenAI's
            `src/model.py`, 0.02 everywhere else).
    """

    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    n_ctx: int = 1024
    vocab_size: int = VOCAB_SIZE
    layer_norm_epsilon: float = 1e-5
    dropout: float = 0.1
    attn_dropout: float = 0.0
    initializer_range: float = 0.02
    wpe_initializer_range: float = 0.02

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                    raise ConfigError(f"{field.name} is a whole number of at least 1, not {value!r}")
            elif not isinstance(value, int | float) or isinstance(value, bool):
                raise ConfigError(f"{field.name} is a number, not {value!r}")
        if self.n_embd % self.n_head:
            raise ConfigError(f"n_embd must be a multiple of n_head: {self.n_embd} / {self.n_head} is no whole number")
        for name in ("dropout", "attn_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"{name} is a probability from 0 to below 1, not {getattr(self, name)}")
        for name in ("layer_norm_epsilon", "initializer_range", "wpe_initializer_range"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ConfigError(f"{name} lies between 0 and 1, not {getattr(self, name)}")

    @property
    def head_width(self) -> int:
        """Width d_k of one attention head: `n_embd / n_head` (64 in all released sizes)."""
        return self.n_embd // self.n_head

    def replace(self, **changes: Any) -> GPT2Config:
        """A copy with some fields changed. For an unknown field, a `ConfigError` names the nearest one."""
        names = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in names:
                raise ConfigError(
                    f"a GPT-2 configuration has no {name!r}{nearest(name, names)}; it has {', '.join(names)}"
                )
        return dataclasses.replace(self, **changes)


PRESETS: MappingProxyType[str, GPT2Config] = MappingProxyType(
    {
        # The released sizes. 1558M has 25 heads: 1600 / 25 = 64 like the others.
        "gpt2": GPT2Config(n_layer=12, n_head=12, n_embd=768),
        "gpt2-medium": GPT2Config(n_layer=24, n_head=16, n_embd=1024),
        "gpt2-large": GPT2Config(n_layer=36, n_head=20, n_embd=1280),
        "gpt2-xl": GPT2Config(n_layer=48, n_head=25, n_embd=1600),
        # Sizes of our own for laptops and tests, without dropout. The smallest two read single bytes: their
        # 257 ids spare them an embedding twenty times the size of the rest.
        "mini": GPT2Config(n_layer=6, n_head=6, n_embd=384, n_ctx=256, dropout=0.0),
        "micro": GPT2Config(n_layer=4, n_head=4, n_embd=128, n_ctx=256, dropout=0.0),
        "nano": GPT2Config(n_layer=3, n_head=2, n_embd=64, n_ctx=128, vocab_size=BYTE_VOCAB_SIZE, dropout=0.0),
        "test": GPT2Config(n_layer=2, n_head=2, n_embd=32, n_ctx=64, vocab_size=BYTE_VOCAB_SIZE, dropout=0.0),
    }
)
ALIASES = MappingProxyType({"124M": "gpt2", "355M": "gpt2-medium", "774M": "gpt2-large", "1558M": "gpt2-xl"})


def preset(name: str, **changes: Any) -> GPT2Config:
    """The configuration called `name` (`gpt2`, `124M`, `nano`, …), with the fields in `changes` changed."""
    try:
        config = PRESETS[ALIASES.get(name, name)]
    except KeyError:
        known = [*PRESETS, *ALIASES]
        raise ConfigError(
            f"there is no preset {name!r}{nearest(name, known)}; the presets are {', '.join(known)}"
        ) from None
    return config.replace(**changes)
