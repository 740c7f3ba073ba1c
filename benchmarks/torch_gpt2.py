"""GPT-2 written by hand in PyTorch, as one does: the yardstick of the benchmarks, eager or compiled."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, n_embd: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.ln_1 = nn.LayerNorm(n_embd)
        self.c_attn = nn.Linear(n_embd, 3 * n_embd)
        self.c_proj = nn.Linear(n_embd, n_embd)
        self.ln_2 = nn.LayerNorm(n_embd)
        self.mlp = nn.Sequential(
            nn.Linear(n_embd, 4 * n_embd), nn.GELU(approximate="tanh"), nn.Linear(4 * n_embd, n_embd)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, D = x.shape
        qkv = self.c_attn(self.ln_1(x)).view(B, T, 3, self.n_head, D // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # [B, H, T, d]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(B, T, D))
        return x + self.mlp(self.ln_2(x))


class GPT2(nn.Module):
    def __init__(self, n_layer: int, n_head: int, n_embd: int, n_ctx: int, vocab_size: int) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.wpe = nn.Embedding(n_ctx, n_embd)
        self.blocks = nn.ModuleList(Block(n_embd, n_head) for _ in range(n_layer))
        self.ln_f = nn.LayerNorm(n_embd)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def load(self, params: dict[str, np.ndarray]) -> None:
        """Copy weights by their names and shapes in `gpt2spec.parameters`, where projections are [in, out]."""
        renamed = {"wte.": "wte.", "wpe.": "wpe.", "ln_f.": "ln_f."}
        for i, _ in enumerate(self.blocks):
            to = f"blocks.{i}."
            renamed[f"h.{i}.ln_1."] = to + "ln_1."
            renamed[f"h.{i}.ln_2."] = to + "ln_2."
            renamed[f"h.{i}.attn.c_attn."] = to + "c_attn."
            renamed[f"h.{i}.attn.c_proj."] = to + "c_proj."
            renamed[f"h.{i}.mlp.c_fc."] = to + "mlp.0."
            renamed[f"h.{i}.mlp.c_proj."] = to + "mlp.2."
        state = {}
        for name, x in params.items():
            stem, leaf = name.rpartition(".")[0] + ".", name.rpartition(".")[2]
            state[renamed[stem] + leaf] = torch.tensor(x.T if ".c_" in name and leaf == "weight" else x)
        self.load_state_dict(state)


class TorchStep:
    """One training step; `dtype` bfloat16 is by autocast, and the optimizer is PyTorch's AdamW."""

    def __init__(
        self, config, params: dict, batch: list[np.ndarray], compile: bool, dtype: str, device: str = "cpu", fused=True
    ) -> None:
        self.device = torch.device(device)
        model = GPT2(config.n_layer, config.n_head, config.n_embd, config.n_ctx, config.vocab_size)
        model.load(params)
        self.master = model.to(self.device)
        self.model = torch.compile(self.master) if compile else self.master
        self.optimizer = torch.optim.AdamW(
            self.master.parameters(), lr=1e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01, fused=fused
        )
        self.batch = [torch.from_numpy(x).to(self.device) for x in batch]
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=dtype == "bfloat16")

    def __call__(self) -> float:
        with self.autocast:
            loss = self.model(*self.batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()
