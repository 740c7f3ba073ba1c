"""PyTorch's fused AdamW as one operation of a graph.

Inductor would write a loop of its own for every shape of weight, which takes it longer than all the rest of a
training step; the kernel that PyTorch has is as fast.
"""

import torch
from torch import Tensor


@torch.library.custom_op("gpt2spec::fused_adamw", mutates_args=("params", "m", "v"))
def fused_adamw(
    params: list[Tensor],
    grads: list[Tensor],
    m: list[Tensor],
    v: list[Tensor],
    inverse_scale: Tensor | None,
    lr: Tensor,
    update: Tensor,
    settings: list[float],
) -> None:
    """Updates many tensors of one decay in place; gradients are divided by `inverse_scale`.

    `settings` are beta1, beta2, decay and epsilon: an operation of a graph takes lists, but no tuple with names.
    """
    beta1, beta2, decay, epsilon = settings
    torch._fused_adamw_(
        params,
        grads,
        m,
        v,
        max_exp_avg_sqs=[],
        state_steps=[update.float()] * len(params),
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        weight_decay=decay,
        eps=epsilon,
        amsgrad=False,
        maximize=False,
        grad_scale=inverse_scale,
    )
