"""GPT-2, from leaf to root.

Sources: "Language Models are Unsupervised Multitask Learners" (Radford et al. 2019), section 2.3, and
`src/model.py` of github.com/openai/gpt-2. Each function is pure; `ops` says how a framework computes.

Parameters are nested dicts, from the weights' names split at their dots; `params["blocks"]` holds those of the blocks,
in the form that `ops.scan_blocks` runs over. The formulas of layer norm, GELU and attention are in `gpt2spec.ops`.

Shapes: B rows, T positions, D = n_embd, H = n_head, d = D / H, L = n_layer, V = vocab_size,
C = capacity of the cache. Weights are named and shaped as in `gpt2spec.parameters`.
"""

from __future__ import annotations  # PyTorch's compiler cannot evaluate those of nested functions

from collections.abc import Callable
from typing import Any, NamedTuple

from gpt2spec.config import GPT2Config
from gpt2spec.ops import Key, Tensor, TensorOps
from gpt2spec.tree import Tree


def embed(ops: TensorOps, params: Tree, tokens: Tensor, positions: Tensor) -> Tensor:
    """W_e[u] + W_p: each token's row and its position's row, with positions [T], or [B, T] where rows differ."""
    tok = ops.take(params["wte"]["weight"], tokens, axis=0)  # [B, T] -> [B, T, D]
    pos = ops.take(params["wpe"]["weight"], positions, axis=0)  # [T, D] or [B, T, D]
    return tok + pos  # [B, T, D]


def layer_norm(ops: TensorOps, config: GPT2Config, p: Tree, x: Tensor) -> Tensor:
    """(x - mean) / sqrt(var + epsilon) * weight + bias at each position by itself: [B, T, D] -> [B, T, D]."""
    return ops.layer_norm(x, p["weight"], p["bias"], epsilon=config.layer_norm_epsilon)


Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""softmax(Q K^T / sqrt(d) + mask) V, given q, k and v of the new positions: 3 x [B, H, T, d] -> [B, H, T, d]."""


def attention(ops: TensorOps, config: GPT2Config, p: Tree, x: Tensor, attend: Attend) -> Tensor:
    """Masked multi-head self-attention: [B, T, D] -> [B, T, D]."""
    q, k, v = ops.split_heads(ops.linear(x, **p["c_attn"]), config.n_head)  # 3 x [B, H, T, d]
    y = attend(q, k, v)  # [B, H, T, d]
    return ops.linear(ops.merge_heads(y), **p["c_proj"])  # [B, T, D]


def mlp(ops: TensorOps, p: Tree, x: Tensor) -> Tensor:
    """GELU(x W_1 + b_1) W_2 + b_2: [B, T, D] -> [B, T, 4D] -> [B, T, D]."""
    return ops.linear(ops.gelu_tanh(ops.linear(x, **p["c_fc"])), **p["c_proj"])


Drop = Callable[[Tensor, int], Tensor]
"""Dropout at a site of the block: 1 is attention's output, 2 that of the MLP. In evaluation it changes nothing."""


def block(
    ops: TensorOps, config: GPT2Config, p: Tree, x: Tensor, attend: Attend, drop: Drop
) -> tuple[Tensor, dict[str, Tensor]]:
    """One pre-norm transformer block: [B, T, D] -> [B, T, D], and its taps."""
    a = attention(ops, config, p["attn"], layer_norm(ops, config, p["ln_1"], x), attend)
    x = x + drop(a, 1)
    m = mlp(ops, p["mlp"], layer_norm(ops, config, p["ln_2"], x))
    x = x + drop(m, 2)
    return x, {"attn": a, "mlp": m, "residual": x}


class Past(NamedTuple):
    """The key/value cache of decoding, and how far each row has been read.

    Attributes:
        cache: the keys and values of each layer, {"k", "v"} of [B, H, C, d].
        start: [B], the position at which row b's tokens begin; None where all rows begin at 0.
        length: how many slots of the cache attention reads: start[b] + T <= length <= C, or T without `start`.
    """

    cache: list[Tree]
    start: Tensor | None
    length: int


def layers(ops: TensorOps, key: Key | None, taps: bool) -> Callable[..., tuple[Tensor, Tree | None, Tree]]:
    """The function that `ops.scan_blocks` runs: a block with its dropout and its keys and values from the cache.

    A `key` turns dropout on. Layer i folds i + 1 into it; into the result, the attention weights fold 0, and the sites
    of the block fold 1 and 2.
    """

    def layer(
        x: Tensor,
        i: int | Tensor,
        p: Tree,
        cache: Tree | None = None,
        *,
        config: GPT2Config,
        start: Tensor | None,
        length: int | None,
    ) -> tuple[Tensor, Tree | None, Tree]:
        own = None if key is None else ops.fold_in(key, i + 1)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            nonlocal cache
            if cache is not None:
                cache = {"k": ops.cache_write(cache["k"], k, start), "v": ops.cache_write(cache["v"], v, start)}
                k, v = cache["k"][:, :, :length], cache["v"][:, :, :length]  # [B, H, length, d]
            on_weights = None if own is None else ops.fold_in(own, 0)
            return ops.causal_attention(q, k, v, start=start, dropout=config.attn_dropout, key=on_weights)

        def drop(x: Tensor, site: int) -> Tensor:
            return ops.dropout(x, config.dropout, None if own is None else ops.fold_in(own, site))

        x, tapped = block(ops, config, p, x, attend, drop)
        return x, cache, tapped if taps else {}

    return layer


def transformer(
    ops: TensorOps,
    config: GPT2Config,
    params: Tree,
    tokens: Tensor,
    *,
    key: Key | None = None,
    past: Past | None = None,
    taps: bool = False,
) -> tuple[Tensor, Any, Any]:
    """Embedding, L blocks, final norm: [B, T] -> [B, T, D], the updated cache, and the taps if `taps` is set.

    A `key` turns dropout on; the embedding folds 0 into it. With a `past`, row b's tokens continue at start[b].
    """
    cache, start, length = ((), None, None) if past is None else ((past.cache,), past.start, past.length)
    positions = ops.arange(tokens.shape[1])  # [T]
    if start is not None:
        positions = ops.reshape(start, (-1, 1)) + positions  # [B, T]
    x = embed(ops, params, tokens, positions)
    x = ops.dropout(x, config.dropout, None if key is None else ops.fold_in(key, 0))
    run = layers(ops, key, taps)
    x, updated, tapped = ops.scan_blocks(run, x, params["blocks"], *cache, config=config, start=start, length=length)
    return layer_norm(ops, config, params["ln_f"], x), updated, tapped


def forward(ops: TensorOps, config: GPT2Config, params: Tree, tokens: Tensor) -> Tensor:
    """Logits of the next token at every position: [B, T] -> [B, T, V]."""
    params = ops.compute_params(params)
    x, _, _ = transformer(ops, config, params, tokens)
    return ops.unembed(x, params["wte"]["weight"])


def forward_with_taps(ops: TensorOps, config: GPT2Config, params: Tree, tokens: Tensor) -> tuple[Tensor, Any]:
    """Logits, and for each layer its attention output, MLP output and residual stream, each [B, T, D]."""
    params = ops.compute_params(params)
    x, _, taps = transformer(ops, config, params, tokens, taps=True)
    return ops.unembed(x, params["wte"]["weight"]), taps


def empty_cache(ops: TensorOps, config: GPT2Config, rows: int, capacity: int) -> list[Tree]:
    """Keys and values of no position yet, layer by layer, for `rows` sequences of up to `capacity` positions."""
    shape = (rows, config.n_head, capacity, config.head_width)  # [B, H, C, d]
    return [{name: ops.full(shape, 0.0, ops.dtype) for name in ("k", "v")} for _ in range(config.n_layer)]


def cached_forward(
    ops: TensorOps,
    config: GPT2Config,
    params: Tree,
    past: Past,
    tokens: Tensor,
    last: Tensor | None = None,
) -> tuple[list[Tree], Tensor]:
    """Logits [B, T, V] of tokens [B, T] that continue what was read before, after the updated cache.

    `params` are those of `Backend.decoding_params`. With `last`, only the logits at position last[b] of each row are
    computed: [B, V].
    """
    x, cache, _ = transformer(ops, config, params, tokens, past=past)
    if last is not None:
        B, T, D = x.shape
        x = ops.take(ops.reshape(x, (B * T, D)), ops.arange(B) * T + last, axis=0)  # [B, D]
    return cache, ops.unembed(x, params["wte"]["weight"])
