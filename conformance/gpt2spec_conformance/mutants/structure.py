"""Mistakes in how the parts are put together: embeddings, residual stream, order of layers, head."""

import math
from collections.abc import Callable
from typing import Any

from gpt2spec import model
from gpt2spec.config import GPT2Config
from gpt2spec.ops import Key, Tensor, TensorOps
from gpt2spec.tree import Tree, tree_map
from gpt2spec_conformance.mutants.fault import Mutant

EMBED = "the stream begins as W_e[token] + W_p[position], positions from 0 (model.embed)"
BLOCK = "x = x + attention(ln_1(x)); x = x + mlp(ln_2(x)) (model.block)"
LAYERS = "each layer has weights of its own, in order (model.transformer)"
HEAD = "logits are ln_f(x) W_e^T: the head is the token embedding, without scale or bias (TensorOps.unembed)"
KILLED_BY = "model.logits.probe.L1"
Branch = Callable[[Tensor], Tensor]
Body = Callable[[Callable[[str, Tensor], Tensor], Branch, Branch, Tensor], Tensor]


def block_of(body: Body) -> Callable[..., Any]:
    """A block from `body(norm, attend, mlp, x)`; `norm("ln_1", x)` is a layer norm, dropout is the branches' own."""

    def block(
        original: Any,
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
        on_weights, on_attention, on_mlp = (None if key is None else ops.fold_in(key, site) for site in range(3))
        result: dict[str, Any] = {}

        def norm(name: str, x: Tensor) -> Tensor:
            return model.layer_norm(ops, config, p[name], x)

        def attend(x: Tensor) -> Tensor:
            result["attn"], result["cache"] = model.attention(
                ops, config, p["attn"], x, key=on_weights, cache=cache, start=start, length=length
            )
            return ops.dropout(result["attn"], config.dropout, on_attention)

        def mlp(x: Tensor) -> Tensor:
            result["mlp"] = model.mlp(ops, p["mlp"], x)
            return ops.dropout(result["mlp"], config.dropout, on_mlp)

        x = body(norm, attend, mlp, x)
        return x, result["cache"], {"attn": result["attn"], "mlp": result["mlp"], "residual": x}

    return block


def _post_norm(norm: Any, attend: Branch, mlp: Branch, x: Tensor) -> Tensor:
    x = norm("ln_1", x + attend(x))
    return norm("ln_2", x + mlp(x))


def _parallel(norm: Any, attend: Branch, mlp: Branch, x: Tensor) -> Tensor:
    return x + attend(norm("ln_1", x)) + mlp(norm("ln_2", x))


def _mlp_first(norm: Any, attend: Branch, mlp: Branch, x: Tensor) -> Tensor:
    x = x + mlp(norm("ln_2", x))
    return x + attend(norm("ln_1", x))


def _no_attention_residual(norm: Any, attend: Branch, mlp: Branch, x: Tensor) -> Tensor:
    x = attend(norm("ln_1", x))
    return x + mlp(norm("ln_2", x))


def _no_mlp_residual(norm: Any, attend: Branch, mlp: Branch, x: Tensor) -> Tensor:
    x = x + attend(norm("ln_1", x))
    return mlp(norm("ln_2", x))


def _norms_exchanged(norm: Any, attend: Branch, mlp: Branch, x: Tensor) -> Tensor:
    x = x + attend(norm("ln_2", x))
    return x + mlp(norm("ln_1", x))


def _one_norm(norm: Any, attend: Branch, mlp: Branch, x: Tensor) -> Tensor:
    x = x + attend(norm("ln_1", x))
    return x + mlp(norm("ln_1", x))


def _no_first_norm(norm: Any, attend: Branch, mlp: Branch, x: Tensor) -> Tensor:
    x = x + attend(x)
    return x + mlp(norm("ln_2", x))


def _no_second_norm(norm: Any, attend: Branch, mlp: Branch, x: Tensor) -> Tensor:
    x = x + attend(norm("ln_1", x))
    return x + mlp(x)


def _normed_residual(norm: Any, attend: Branch, mlp: Branch, x: Tensor) -> Tensor:
    x = norm("ln_1", x)
    x = x + attend(x)
    x = norm("ln_2", x)
    return x + mlp(x)


def _normed_branches(norm: Any, attend: Branch, mlp: Branch, x: Tensor) -> Tensor:
    x = x + norm("ln_1", attend(x))
    return x + norm("ln_2", mlp(x))


def _first_residual_twice(norm: Any, attend: Branch, mlp: Branch, x: Tensor) -> Tensor:
    y = x + attend(norm("ln_1", x))
    return x + mlp(norm("ln_2", y))


def _scaled_residual(norm: Any, attend: Branch, mlp: Branch, x: Tensor) -> Tensor:
    x = (x + attend(norm("ln_1", x))) * math.sqrt(0.5)
    return (x + mlp(norm("ln_2", x))) * math.sqrt(0.5)


def _embedding(change: Callable[[TensorOps, Tensor, Tensor], tuple[Tensor, Tensor]]) -> Callable[..., Tensor]:
    """`embed` with other tables: `change(ops, wte, wpe)`."""

    def embed(original: Any, ops: TensorOps, params: Tree, tokens: Tensor, start: Tensor | None = None) -> Tensor:
        wte, wpe = change(ops, params["wte"]["weight"], params["wpe"]["weight"])
        return original(ops, {"wte": {"weight": wte}, "wpe": {"weight": wpe}}, tokens, start)

    return embed


def _next_position(ops: TensorOps, wte: Tensor, wpe: Tensor) -> tuple[Tensor, Tensor]:
    return wte, ops.concat([wpe[1:], wpe[-1:]], 0)


def _reversed_positions(ops: TensorOps, wte: Tensor, wpe: Tensor) -> tuple[Tensor, Tensor]:
    return wte, ops.take(wpe, wpe.shape[0] - 1 - ops.arange(wpe.shape[0]), 0)


def _layers(change: Callable[[list[Tree]], list[Tree]]) -> Callable[..., Any]:
    """`transformer` over other layers."""

    def transformer(original: Any, ops: TensorOps, config: GPT2Config, params: Tree, *args: Any, **kwargs: Any) -> Any:
        blocks = ops.stack_layers(change(ops.unstack_layers(params["blocks"])))
        return original(ops, config, {**params, "blocks": blocks}, *args, **kwargs)

    return transformer


def _last_silenced(layers: list[Tree]) -> list[Tree]:
    """A layer of zeros adds nothing to the stream; layer and cache stay where they are."""
    return [*layers[:-1], tree_map(lambda x: 0.0 * x, layers[-1])]


def _head(change: Callable[[TensorOps, Tensor, Tensor], tuple[Tensor, Tensor]]) -> dict[str, Callable[..., Tensor]]:
    """The head on other inputs, `change(ops, x, wte)`, for logits and loss alike."""

    def unembed(original: Any, ops: TensorOps, x: Tensor, wte: Tensor) -> Tensor:
        return original(*change(ops, x, wte))

    def head_cross_entropy(original: Any, ops: TensorOps, x: Tensor, wte: Tensor, targets: Tensor) -> Tensor:
        return TensorOps.head_cross_entropy(ops, x, wte, targets)  # the definition, through this `unembed`

    return {"unembed": unembed, "head_cross_entropy": head_cross_entropy}


def _another_matrix(ops: TensorOps, x: Tensor, wte: Tensor) -> tuple[Tensor, Tensor]:
    """The embedding's rows in reverse stand for a matrix that was initialised by itself."""
    return x, ops.take(wte, wte.shape[0] - 1 - ops.arange(wte.shape[0]), 0)


def _previous_row(ops: TensorOps, x: Tensor, wte: Tensor) -> tuple[Tensor, Tensor]:
    return x, ops.concat([wte[-1:], wte[:-1]], 0)


def _block(name: str, summary: str, body: Body, killed_by: str = KILLED_BY) -> Mutant:
    return Mutant(name, summary, BLOCK, killed_by, core={"gpt2spec.model.block": block_of(body)})


def _embed(name: str, summary: str, change: Any) -> Mutant:
    return Mutant(name, summary, EMBED, KILLED_BY, core={"gpt2spec.model.embed": _embedding(change)})


def _stack(name: str, summary: str, change: Callable[[list[Tree]], list[Tree]]) -> Mutant:
    transformer = _layers(change)
    core = {"gpt2spec.model.transformer": transformer, "gpt2spec.loss.transformer": transformer}
    return Mutant(name, summary, LAYERS, "model.logits.probe.L2", core=core)


def _tied(name: str, summary: str, change: Any) -> Mutant:
    return Mutant(name, summary, HEAD, KILLED_BY, ops=_head(change))


MUTANTS = [
    _embed("positions-off-by-one", "positions counted from 1", _next_position),
    _embed("positions-reversed", "positions counted from the end", _reversed_positions),
    _embed("positions-missing", "no position embedding", lambda ops, wte, wpe: (wte, 0.0 * wpe)),
    _embed("positions-twice", "the position embedding is added twice", lambda ops, wte, wpe: (wte, 2.0 * wpe)),
    _embed(
        "embedding-scaled",
        "token embeddings multiplied by sqrt(D), as in the first transformer",
        lambda ops, wte, wpe: (wte * math.sqrt(wte.shape[1]), wpe),
    ),
    _block("post-norm", "layer norm after each residual sum, as in GPT-1", _post_norm),
    _block("parallel-branches", "attention and MLP side by side, as in GPT-J", _parallel),
    _block("mlp-first", "the MLP before attention", _mlp_first),
    _block("attention-residual-missing", "attention's output replaces the stream", _no_attention_residual),
    _block("mlp-residual-missing", "the MLP's output replaces the stream", _no_mlp_residual),
    _block("mlp-residual-from-input", "the MLP's output is added to the block's input", _first_residual_twice),
    _block("norms-exchanged", "ln_1 and ln_2 exchanged", _norms_exchanged),
    _block("norm-shared", "ln_1 before both branches", _one_norm),
    _block("norm-1-missing", "attention reads the stream itself, without ln_1", _no_first_norm),
    _block("norm-2-missing", "the MLP reads the stream itself, without ln_2", _no_second_norm),
    _block("residual-normed", "the residual stream carries the normalised values", _normed_residual),
    _block("branches-normed", "layer norm of the branches' outputs, not inputs", _normed_branches),
    _block("residual-scaled", "each residual sum is divided by sqrt(2)", _scaled_residual),
    _stack(
        "layers-reversed",
        "layers in reverse order (h.10 before h.2, once there are enough)",
        lambda layers: layers[::-1],
    ),
    _stack("layers-shared", "every layer has the first one's weights", lambda layers: layers[:1] * len(layers)),
    _stack("layer-missing", "the last layer is not run", _last_silenced),
    _tied("head-untied", "the head is a matrix of its own", _another_matrix),
    _tied("head-shifted", "logits are shifted by one id", _previous_row),
    _tied("head-scaled", "logits divided by sqrt(D)", lambda ops, x, wte: (x / math.sqrt(x.shape[-1]), wte)),
    _tied("head-temperature", "a temperature of 0.9 within the head", lambda ops, x, wte: (x / 0.9, wte)),
]
