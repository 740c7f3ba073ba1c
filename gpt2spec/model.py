"""GPT-2, from leaf to root.

Sources: "Language Models are Unsupervised Multitask Learners" (Radford et al. 2019), section 2.3, and
`src/model.py` of github.com/openai/gpt-2. Each function is pure; `ops` says how a framework computes.

On a first reading, ignore `key` (it turns dropout on), and `cache`, `start` and `length` (the key/value cache of
decoding). Parameters are nested dicts, the weights' names split at their dots; `params["blocks"]` holds those of
the blocks, in the form that `ops.scan_blocks` runs over. The formulas of layer norm, GELU and attention stand in
`gpt2spec.ops`.

Shapes: B rows, T positions, D = n_embd, H = n_head, d = D / H, L = n_layer, V = vocab_size,
C = capacity of the cache. Weights are named and shaped as in `gpt2spec.parameters`.
"""

from typing import Any

from gpt2spec.config import GPT2Config
from gpt2spec.ops import Key, Tensor, TensorOps
from gpt2spec.tree import Tree


def embed(ops: TensorOps, params: Tree, tokens: Tensor, start: Tensor | None = None) -> Tensor:
    """W_e[u] + W_p: the token's row and the position's row. Row b begins at position start[b], or 0."""
    positions = ops.arange(tokens.shape[1])  # [T]
    if start is not None:
        positions = ops.reshape(start, (-1, 1)) + positions  # [B, T]
    tok = ops.take(params["wte"]["weight"], tokens, axis=0)  # [B, T] -> [B, T, D]
    pos = ops.take(params["wpe"]["weight"], positions, axis=0)  # [T, D] or [B, T, D]
    return tok + pos  # [B, T, D]


def layer_norm(ops: TensorOps, config: GPT2Config, p: Tree, x: Tensor) -> Tensor:
    """[B, T, D] -> [B, T, D], each position by itself."""
    return ops.layer_norm(x, p["weight"], p["bias"], epsilon=config.layer_norm_epsilon)


def attention(
    ops: TensorOps,
    config: GPT2Config,
    p: Tree,
    x: Tensor,
    *,
    key: Key | None = None,
    cache: Tree | None = None,
    start: Tensor | None = None,
    length: int | None = None,
) -> tuple[Tensor, Tree | None]:
    """Masked multi-head self-attention: [B, T, D] -> [B, T, D], and the updated cache if there is one.

    With a cache {"k", "v"} of [B, H, C, d], the new keys and values go into row b's slots start[b], ... (0, ...
    without `start`), and attention looks at the first `length` slots.
    """
    q, k, v = ops.split_heads(ops.linear(x, **p["c_attn"]), config.n_head)  # 3 x [B, H, T, d]
    if cache is not None:
        cache = {"k": ops.cache_write(cache["k"], k, start), "v": ops.cache_write(cache["v"], v, start)}
        k, v = cache["k"][:, :, :length], cache["v"][:, :, :length]  # [B, H, length, d]
    y = ops.causal_attention(q, k, v, start=start, dropout=config.attn_dropout, key=key)  # [B, H, T, d]
    return ops.linear(ops.merge_heads(y), **p["c_proj"]), cache  # [B, T, D]


def mlp(ops: TensorOps, p: Tree, x: Tensor) -> Tensor:
    """GELU(x W_1 + b_1) W_2 + b_2: [B, T, D] -> [B, T, 4D] -> [B, T, D]."""
    return ops.linear(ops.gelu_tanh(ops.linear(x, **p["c_fc"])), **p["c_proj"])


def block(
    ops: TensorOps,
    config: GPT2Config,
    p: Tree,
    x: Tensor,
    *,
    key: Key | None = None,
    cache: Tree | None = None,
    start: Tensor | None = None,
    length: int | None = None,
) -> tuple[Tensor, Tree | None, Tree]:
    """One pre-norm transformer block: [B, T, D] -> [B, T, D], the updated cache, and the taps."""
    on_weights, on_attention, on_mlp = (None if key is None else ops.fold_in(key, site) for site in range(3))
    a, cache = attention(
        ops,
        config,
        p["attn"],
        layer_norm(ops, config, p["ln_1"], x),
        key=on_weights,
        cache=cache,
        start=start,
        length=length,
    )
    x = x + ops.dropout(a, config.dropout, on_attention)
    m = mlp(ops, p["mlp"], layer_norm(ops, config, p["ln_2"], x))
    x = x + ops.dropout(m, config.dropout, on_mlp)
    return x, cache, {"attn": a, "mlp": m, "residual": x}


def transformer(
    ops: TensorOps,
    config: GPT2Config,
    params: Tree,
    tokens: Tensor,
    *,
    key: Key | None = None,
    cache: Any = None,
    start: Tensor | None = None,
    length: int | None = None,
    taps: bool = False,
) -> tuple[Tensor, Any, Any]:
    """Embedding, L blocks, final norm: [B, T] -> [B, T, D], the updated cache, and taps if asked for.

    A `key` turns dropout on: part 0 of it is the embedding's, part i + 1 that of layer i.
    """

    def layer(x: Tensor, i: int | Tensor, p: Tree, c: Tree | None = None, **alike: Any) -> tuple[Tensor, Tree, Tree]:
        layer_key = None if key is None else ops.fold_in(key, i + 1)
        x, c, tapped = block(ops, p=p, x=x, key=layer_key, cache=c, **alike)
        return x, c, (tapped if taps else {})

    x = embed(ops, params, tokens, start)
    x = ops.dropout(x, config.dropout, None if key is None else ops.fold_in(key, 0))
    per_layer = (params["blocks"],) if cache is None else (params["blocks"], cache)
    x, cache, tapped = ops.scan_blocks(layer, x, *per_layer, config=config, start=start, length=length)
    return layer_norm(ops, config, params["ln_f"], x), cache, tapped


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
    cache: list[Tree],
    tokens: Tensor,
    start: Tensor | None,
    length: int,
    last: Tensor | None = None,
) -> tuple[list[Tree], Tensor]:
    """Logits of tokens [B, T] that continue rows of start[b] positions, or of none: the updated cache, and [B, T, V].

    `params` are those of `Backend.decoding_params`. Attention looks at the first `length` slots of the cache:
    start[b] + T <= length <= C, and length = T without `start`. With `last`, only the logits at position last[b]
    of each row are computed: [B, V].
    """
    x, cache, _ = transformer(ops, config, params, tokens, cache=cache, start=start, length=length)
    if last is not None:
        B, T, D = x.shape
        x = ops.take(ops.reshape(x, (B * T, D)), ops.arange(B) * T + last, axis=0)  # [B, D]
    return cache, ops.unembed(x, params["wte"]["weight"])
