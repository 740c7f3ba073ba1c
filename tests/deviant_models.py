"""GPT-2 in PyTorch, written only from the formulas, with the deviations of well-known repositories.

`GPT2` is right; its keyword arguments make it wrong. `PlainGPT2` is right too, and has other names and layouts.
"""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from gpt2spec_conformance.subjects.torch_module import (
    ABSENT,
    Layout,
    TorchModuleSubject,
    separate_qkv,
    transposed,
    untied,
)
from torch import Tensor, nn

from gpt2spec.config import GPT2Config


def gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class Attention(nn.Module):
    def __init__(self, D: int, heads: int, bias: bool, first_masked: int) -> None:
        super().__init__()
        self.heads, self.first_masked = heads, first_masked
        self.qkv, self.out = nn.Linear(D, 3 * D, bias=bias), nn.Linear(D, D, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        q, k, v = (part.view(B, T, self.heads, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        scores = q @ k.transpose(-1, -2) / math.sqrt(D // self.heads)
        masked = torch.ones(T, T, dtype=torch.bool).triu(self.first_masked)
        weights = scores.masked_fill(masked, -math.inf).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(B, T, D))


class MLP(nn.Module):
    def __init__(self, D: int, bias: bool, gelu: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.up, self.down, self.gelu = nn.Linear(D, 4 * D, bias=bias), nn.Linear(4 * D, D, bias=bias), gelu

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.gelu(self.up(x)))


class Block(nn.Module):
    def __init__(self, attention: Attention, mlp: MLP, D: int, epsilon: float) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(D, epsilon), nn.LayerNorm(D, epsilon)
        self.attn, self.mlp = attention, mlp

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class GPT2(nn.Module):
    """GPT-2, unless an argument says otherwise.

    `first_masked` is the first key after a query that the query does not see; `std` overrides that of some weights.
    """

    def __init__(
        self,
        config: GPT2Config,
        *,
        gelu: Callable[[Tensor], Tensor] = gelu_tanh,
        epsilon: float = 1e-5,
        bias: bool = True,
        tied: bool = True,
        first_masked: int = 1,
        std: dict[str, float] | None = None,
    ) -> None:
        super().__init__()
        D = config.n_embd
        self.tok, self.pos = nn.Embedding(config.vocab_size, D), nn.Embedding(config.n_ctx, D)
        self.blocks = nn.ModuleList(
            Block(Attention(D, config.n_head, bias, first_masked), MLP(D, bias, gelu), D, epsilon)
            for _ in range(config.n_layer)
        )
        self.ln = nn.LayerNorm(D, epsilon)
        self.head = nn.Linear(D, config.vocab_size, bias=False)
        if tied:
            self.head.weight = self.tok.weight
        residual = 0.02 / math.sqrt(2 * config.n_layer)
        stds = {"out.weight": residual, "down.weight": residual, "pos.weight": config.wpe_initializer_range} | (
            std or {}
        )
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=next((stds[end] for end in stds if name.endswith(end)), 0.02))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tok(tokens) + self.pos(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln(x))


PROJECTIONS = {
    "h.{i}.attn.c_attn": "blocks.{i}.attn.qkv",
    "h.{i}.attn.c_proj": "blocks.{i}.attn.out",
    "h.{i}.mlp.c_fc": "blocks.{i}.mlp.up",
    "h.{i}.mlp.c_proj": "blocks.{i}.mlp.down",
}
NAMES = {
    "wte": "tok",
    "wpe": "pos",
    "h.{i}.ln_1": "blocks.{i}.ln1",
    "h.{i}.ln_2": "blocks.{i}.ln2",
    "ln_f": "ln",
    **{ours: transposed(theirs) for ours, theirs in PROJECTIONS.items()},
}
PARTS = {"attn": "blocks.{i}.attn", "mlp": "blocks.{i}.mlp", "residual": "blocks.{i}"}

DEVIATIONS: dict[str, dict[str, Any]] = {
    "gelu-erf": {"gelu": nn.functional.gelu},
    "ln-epsilon-1e-6": {"epsilon": 1e-6},
    "no-biases": {"bias": False},
    "untied-head": {"tied": False},
    "mask-off-by-one": {"first_masked": 2},
    "no-residual-scale": {"std": {"out.weight": 0.02, "down.weight": 0.02}},
    "wte-std-0.01": {"std": {"tok.weight": 0.01}},
    "wpe-std-0.01": {"std": {"pos.weight": 0.01}},
}


def subject(deviation: str | None = None) -> TorchModuleSubject:
    """The right model, or one that deviates as `DEVIATIONS` says."""
    names: dict[str, Any] = dict(NAMES)
    if deviation == "no-biases":
        names |= {f"{name}.bias": ABSENT for name in PROJECTIONS}
    if deviation == "untied-head":
        names["wte"] = untied("tok", "head")
    settings = DEVIATIONS[deviation] if deviation else {}
    return TorchModuleSubject(
        lambda config: GPT2(config, **settings),
        names,
        parts=PARTS,
        name=f"GPT-2 with {deviation}" if deviation else "GPT-2",
    )


class PlainGPT2(nn.Module):
    """GPT-2 as functions of a dict of parameters, with projections [in, out] and separate queries, keys and values."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        D = config.n_embd
        self.config = config
        shapes = {"wte": (config.vocab_size, D), "wpe": (config.n_ctx, D), "lnf_g": (D,), "lnf_b": (D,)}
        for i in range(config.n_layer):
            shapes |= {f"q{i}_w": (D, D), f"k{i}_w": (D, D), f"v{i}_w": (D, D)}
            shapes |= {f"q{i}_b": (D,), f"k{i}_b": (D,), f"v{i}_b": (D,)}
            shapes |= {f"{n}{i}_{p}": (D,) for n in ("lna", "lnm") for p in "gb"}
            shapes |= {f"o{i}_w": (D, D), f"o{i}_b": (D,)}
            shapes |= {f"up{i}_w": (D, 4 * D), f"up{i}_b": (4 * D,), f"down{i}_w": (4 * D, D), f"down{i}_b": (D,)}
        self.p = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(shape)) for name, shape in shapes.items()})

    def norm(self, x: Tensor, name: str) -> Tensor:
        y = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
        return y * self.p[f"{name}_g"] + self.p[f"{name}_b"]

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.p[f"{name}_w"] + self.p[f"{name}_b"]

    def attention(self, x: Tensor, i: int) -> Tensor:
        heads = []
        parts = (self.linear(x, f"{n}{i}").split(self.config.head_width, -1) for n in "qkv")
        for q, k, v in zip(*parts, strict=True):
            scores = torch.exp(q @ k.mT / math.sqrt(self.config.head_width)).tril()
            heads.append(scores @ v / scores.sum(-1, keepdim=True))
        return self.linear(torch.cat(heads, -1), f"o{i}")

    def forward(self, tokens: Tensor) -> Any:
        x = nn.functional.embedding(tokens, self.p["wte"]) + self.p["wpe"][: tokens.shape[1]]
        for i in range(self.config.n_layer):
            x = x + self.attention(self.norm(x, f"lna{i}"), i)
            x = x + self.linear(gelu_tanh(self.linear(self.norm(x, f"lnm{i}"), f"up{i}")), f"down{i}")
        return SimpleNamespace(logits=self.norm(x, "lnf") @ self.p["wte"].T)


PLAIN_NAMES = {
    "wte.weight": "p.wte",
    "wpe.weight": "p.wpe",
    "ln_f.weight": "p.lnf_g",
    "ln_f.bias": "p.lnf_b",
    **{
        f"h.{{i}}.ln_{n}.{ours}": f"p.ln{norm}{{i}}_{p}"
        for n, norm in ((1, "a"), (2, "m"))
        for ours, p in (("weight", "g"), ("bias", "b"))
    },
    **{
        f"h.{{i}}.{name}.{ours}": f"p.{theirs}{{i}}_{p}"
        for name, theirs in (("attn.c_proj", "o"), ("mlp.c_fc", "up"), ("mlp.c_proj", "down"))
        for ours, p in (("weight", "w"), ("bias", "b"))
    },
    "h.{i}.attn.c_attn.weight": Layout(
        ("p.q{i}_w", "p.k{i}_w", "p.v{i}_w"), lambda x: np.split(x, 3, -1), lambda parts: np.concatenate(parts, -1)
    ),
    "h.{i}.attn.c_attn.bias": separate_qkv("p.q{i}_b", "p.k{i}_b", "p.v{i}_b"),
}


def plain_subject() -> TorchModuleSubject:
    """The right model that shares nothing with `GPT2`."""
    return TorchModuleSubject(PlainGPT2, PLAIN_NAMES, name="plain GPT-2")
