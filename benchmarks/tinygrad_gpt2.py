"""GPT-2 written by hand in tinygrad, as its own examples do: `nn` layers, `nn.optim.AdamW`, the step in a TinyJit."""

import numpy as np
from tinygrad import Tensor, TinyJit, nn
from tinygrad.helpers import Context


class Block:
    def __init__(self, n_embd: int, n_head: int) -> None:
        self.n_head = n_head
        self.ln_1 = nn.LayerNorm(n_embd)
        self.c_attn = nn.Linear(n_embd, 3 * n_embd)
        self.c_proj = nn.Linear(n_embd, n_embd)
        self.ln_2 = nn.LayerNorm(n_embd)
        self.c_fc = nn.Linear(n_embd, 4 * n_embd)
        self.mlp_proj = nn.Linear(4 * n_embd, n_embd)

    def __call__(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        qkv = self.c_attn(self.ln_1(x)).reshape(B, T, 3, self.n_head, D // self.n_head).permute(2, 0, 3, 1, 4)
        y = qkv[0].scaled_dot_product_attention(qkv[1], qkv[2], is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(B, T, D))
        return x + self.mlp_proj(self.c_fc(self.ln_2(x)).gelu())  # tinygrad's gelu is the tanh form


class GPT2:
    def __init__(self, config) -> None:
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_ctx, config.n_embd)
        self.blocks = [Block(config.n_embd, config.n_head) for _ in range(config.n_layer)]
        self.ln_f = nn.LayerNorm(config.n_embd)

    def __call__(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(Tensor.arange(tokens.shape[1]).reshape(1, -1))
        for block in self.blocks:
            x = block(x)
        return (self.ln_f(x) @ self.wte.weight.T).sparse_categorical_crossentropy(targets)

    def load(self, params: dict[str, np.ndarray]) -> None:
        modules = {"wte": self.wte, "wpe": self.wpe, "ln_f": self.ln_f}
        for i, block in enumerate(self.blocks):
            modules |= {f"h.{i}.ln_1": block.ln_1, f"h.{i}.ln_2": block.ln_2}
            modules |= {f"h.{i}.attn.c_attn": block.c_attn, f"h.{i}.attn.c_proj": block.c_proj}
            modules |= {f"h.{i}.mlp.c_fc": block.c_fc, f"h.{i}.mlp.c_proj": block.mlp_proj}
        for name, x in params.items():
            module, leaf = name.rsplit(".", 1)
            x = x.T if ".c_" in name and leaf == "weight" else x
            getattr(modules[module], leaf).assign(Tensor(np.ascontiguousarray(x))).realize()


class TinygradStep:
    def __init__(self, config, params: dict, batch: list[np.ndarray]) -> None:
        self.model = GPT2(config)
        self.model.load(params)
        optimizer = nn.optim.AdamW(
            nn.state.get_parameters(self.model), lr=1e-4, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.01
        )
        self.batch = [Tensor(x.astype(np.int32)).clone().realize() for x in batch]

        @TinyJit
        def step(tokens: Tensor, targets: Tensor) -> Tensor:
            optimizer.zero_grad()
            loss = self.model(tokens, targets).backward()
            return loss.realize(*optimizer.schedule_step())

        self.step = step

    def __call__(self) -> float:
        with Context(TRAINING=1):
            return self.step(*self.batch).item()
