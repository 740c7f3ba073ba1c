"""Mistakes in how the model is put together: embeddings, residual stream, order of layers, head."""

import math
from collections.abc import Callable
from typing import Any

from gpt2spec import model
from gpt2spec.config import GPT2Config
from gpt2spec.ops import Tensor, TensorOps
from gpt2spec.tree import Tree, tree_map
from gpt2spec_conformance.mutants.fault import Mutant

EMBED = "the stream begins as W_e[token] + W_p[position], positions from 0 (model.embed)"
BLOCK = "x = x + attention(ln_1(x)); x = x + mlp(ln_2(x)) (model.block)"
LAYERS = "each layer has weights of its own, in order (model.transformer)"
HEAD = "logits are ln_f(x) W_e^T: the head is the token embedding, without scale or bias (TensorOps.unembed)"
KILLED_BY = "model.logits.probe.L1"
Change = Callable[[TensorOps, Tensor, Tensor], tuple[Tensor, Tensor]]


class Branches:
    """The branches of a block, for one that puts them together in its own way, and their taps.

    `drop(x, 1)` and `drop(x, 2)` are dropout at the block's sites.
    """

    def __init__(self, ops: TensorOps, config: GPT2Config, p: Tree, attend: model.Attend, drop: model.Drop) -> None:
        self.drop = drop
        self.taps: dict[str, Tensor] = {}
        self._model, self._p, self._attend = (ops, config), p, attend

    def norm(self, name: str, x: Tensor) -> Tensor:
        """The layer norm `ln_1` or `ln_2`."""
        return model.layer_norm(*self._model, self._p[name], x)

    def attention(self, x: Tensor) -> Tensor:
        """Attention, which reads `x` as it is."""
        self.taps["attn"] = model.attention(*self._model, self._p["attn"], x, self._attend)
        return self.taps["attn"]

    def mlp(self, x: Tensor) -> Tensor:
        """The MLP, which reads `x` as it is."""
        self.taps["mlp"] = model.mlp(self._model[0], self._p["mlp"], x)
        return self.taps["mlp"]


Body = Callable[[Branches, Tensor], Tensor]


def block_of(body: Body) -> dict[str, Callable[..., Any]]:
    """`model.block` replaced by a block whose residual stream is `body(branches, x)`."""

    def block(
        original: Any, ops: TensorOps, config: GPT2Config, p: Tree, x: Tensor, attend: model.Attend, drop: model.Drop
    ) -> tuple[Tensor, dict[str, Tensor]]:
        branches = Branches(ops, config, p, attend, drop)
        x = body(branches, x)
        return x, {**branches.taps, "residual": x}

    return {"gpt2spec.model.block": block}


def _post_norm(b: Branches, x: Tensor) -> Tensor:
    x = b.norm("ln_1", x + b.drop(b.attention(x), 1))
    return b.norm("ln_2", x + b.drop(b.mlp(x), 2))


def _parallel(b: Branches, x: Tensor) -> Tensor:
    return x + b.drop(b.attention(b.norm("ln_1", x)), 1) + b.drop(b.mlp(b.norm("ln_2", x)), 2)


def _mlp_first(b: Branches, x: Tensor) -> Tensor:
    x = x + b.drop(b.mlp(b.norm("ln_2", x)), 2)
    return x + b.drop(b.attention(b.norm("ln_1", x)), 1)


def _no_attention_residual(b: Branches, x: Tensor) -> Tensor:
    x = b.drop(b.attention(b.norm("ln_1", x)), 1)
    return x + b.drop(b.mlp(b.norm("ln_2", x)), 2)


def _no_mlp_residual(b: Branches, x: Tensor) -> Tensor:
    x = x + b.drop(b.attention(b.norm("ln_1", x)), 1)
    return b.drop(b.mlp(b.norm("ln_2", x)), 2)


def _with_norms(first: str | None, second: str | None) -> Body:
    """The block with other layer norms before its branches, or none."""

    def body(b: Branches, x: Tensor) -> Tensor:
        x = x + b.drop(b.attention(b.norm(first, x) if first else x), 1)
        return x + b.drop(b.mlp(b.norm(second, x) if second else x), 2)

    return body


def _normed_residual(b: Branches, x: Tensor) -> Tensor:
    x = b.norm("ln_1", x)
    x = x + b.drop(b.attention(x), 1)
    x = b.norm("ln_2", x)
    return x + b.drop(b.mlp(x), 2)


def _normed_branches(b: Branches, x: Tensor) -> Tensor:
    x = x + b.norm("ln_1", b.drop(b.attention(x), 1))
    return x + b.norm("ln_2", b.drop(b.mlp(x), 2))


def _first_residual_twice(b: Branches, x: Tensor) -> Tensor:
    y = x + b.drop(b.attention(b.norm("ln_1", x)), 1)
    return x + b.drop(b.mlp(b.norm("ln_2", y)), 2)


def _scaled_residual(b: Branches, x: Tensor) -> Tensor:
    x = (x + b.drop(b.attention(b.norm("ln_1", x)), 1)) * math.sqrt(0.5)
    return (x + b.drop(b.mlp(b.norm("ln_2", x)), 2)) * math.sqrt(0.5)


def _next_position(ops: TensorOps, wte: Tensor, wpe: Tensor) -> tuple[Tensor, Tensor]:
    return wte, ops.concat([wpe[1:], wpe[-1:]], 0)


def _reversed_positions(ops: TensorOps, wte: Tensor, wpe: Tensor) -> tuple[Tensor, Tensor]:
    return wte, ops.take(wpe, wpe.shape[0] - 1 - ops.arange(wpe.shape[0]), 0)


def _last_silenced(layers: list[Tree]) -> list[Tree]:
    """Sets the last layer to zeros, which adds nothing to the stream; the layer and its cache stay where they are."""
    return [*layers[:-1], tree_map(lambda x: 0.0 * x, layers[-1])]


def _another_matrix(ops: TensorOps, x: Tensor, wte: Tensor) -> tuple[Tensor, Tensor]:
    """Reverses the rows of the embedding, which stands for a matrix that was initialised by itself."""
    return x, ops.take(wte, wte.shape[0] - 1 - ops.arange(wte.shape[0]), 0)


def _previous_row(ops: TensorOps, x: Tensor, wte: Tensor) -> tuple[Tensor, Tensor]:
    return x, ops.concat([wte[-1:], wte[:-1]], 0)


def _block(name: str, summary: str, body: Body, killed_by: str = KILLED_BY) -> Mutant:
    return Mutant(name, summary, BLOCK, killed_by, core=block_of(body))


def _embed(name: str, summary: str, change: Change) -> Mutant:
    """Embeds with other tables, `change(ops, wte, wpe)`."""

    def embed(original: Any, ops: TensorOps, params: Tree, tokens: Tensor, positions: Tensor) -> Tensor:
        wte, wpe = change(ops, params["wte"]["weight"], params["wpe"]["weight"])
        return original(ops, {"wte": {"weight": wte}, "wpe": {"weight": wpe}}, tokens, positions)

    return Mutant(name, summary, EMBED, KILLED_BY, core={"gpt2spec.model.embed": embed})


def _stack(name: str, summary: str, change: Callable[[list[Tree]], list[Tree]]) -> Mutant:
    """Runs the transformer over other layers."""

    def transformer(original: Any, ops: TensorOps, config: GPT2Config, params: Tree, *args: Any, **kwargs: Any) -> Any:
        blocks = ops.stack_layers(change(ops.unstack_layers(params["blocks"])))
        return original(ops, config, {**params, "blocks": blocks}, *args, **kwargs)

    return Mutant(name, summary, LAYERS, "model.logits.probe.L2", core={"gpt2spec.model.transformer": transformer})


def _tied(name: str, summary: str, change: Change) -> Mutant:
    """Puts other inputs into the head, `change(ops, x, wte)`, for both logits and loss."""

    def unembed(original: Any, ops: TensorOps, x: Tensor, wte: Tensor) -> Tensor:
        return original(*change(ops, x, wte))

    def head_cross_entropy(original: Any, ops: TensorOps, x: Tensor, wte: Tensor, targets: Tensor) -> Tensor:
        return TensorOps.head_cross_entropy(ops, x, wte, targets)  # the definition, through this `unembed`

    return Mutant(name, summary, HEAD, KILLED_BY, ops={"unembed": unembed, "head_cross_entropy": head_cross_entropy})


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
    _block("norms-exchanged", "ln_1 and ln_2 exchanged", _with_norms("ln_2", "ln_1")),
    _block("norm-shared", "ln_1 before both branches", _with_norms("ln_1", "ln_1")),
    _block("norm-1-missing", "attention reads the stream itself, without ln_1", _with_norms(None, "ln_2")),
    _block("norm-2-missing", "the MLP reads the stream itself, without ln_2", _with_norms("ln_1", None)),
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
