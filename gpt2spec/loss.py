"""The training objective: mean negative log-likelihood of the next token over B x T, in nats."""

from gpt2spec.config import GPT2Config
from gpt2spec.model import transformer
from gpt2spec.ops import Key, Tensor, TensorOps
from gpt2spec.tree import Tree


def language_model_loss(
    ops: TensorOps, config: GPT2Config, params: Tree, tokens: Tensor, targets: Tensor, key: Key | None = None
) -> Tensor:
    """-mean log p(target): [B, T] tokens and the [B, T] tokens that follow them -> []. A key turns dropout on."""
    params = ops.compute_params(params)
    x, _, _ = transformer(ops, config, params, tokens, key=key)  # [B, T, D]
    return ops.head_cross_entropy(x, params["wte"]["weight"], targets)
