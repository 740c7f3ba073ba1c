"""A small model in every format, with readers and modules of other projects, written from their descriptions."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gpt2spec.checkpoints.convert import convert
from gpt2spec.checkpoints.native import TrainingState, save_checkpoint
from gpt2spec.checkpoints.opening import open_checkpoint
from gpt2spec.config import GPT2Config
from gpt2spec.parameters import HostParams, initial_parameters

CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=16, n_ctx=24, vocab_size=61, dropout=0.0)
TARGETS = ("hf", "nanogpt", "llmc")
SOURCES = ("ours", *TARGETS)
FOREIGN = {"transformers": "hf", "llm.c": "llmc"}
"""Formats as others write them, without the checksums that are ours, and their names in `TARGETS`."""


def random_parameters(config: GPT2Config = CONFIG, seed: int = 0) -> HostParams:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(x.shape, np.float32) for name, x in initial_parameters(config).items()}


def write(path: Path, source: str, params: HostParams, config: GPT2Config = CONFIG) -> Path:
    """Write the model to `path` in one of the formats `SOURCES` or `FOREIGN`."""
    run = path.with_name(f"{path.name}-run") if source != "ours" else path
    save_checkpoint(run, config, params, TrainingState(params, params, {"step": 1}))
    if source != "ours":
        convert(open_checkpoint(run), path, FOREIGN.get(source, source))
    if source == "transformers":
        (path / "SHA256SUMS").unlink()
    if source == "llm.c":
        with path.open("r+b") as file:
            file.seek(32)
            file.write(bytes(1024 - 32))
    return path


def same_bits(a: HostParams, b: HostParams) -> bool:
    return list(a) == list(b) and all(a[n].dtype == b[n].dtype and a[n].tobytes() == b[n].tobytes() for n in a)


def read_llmc(path: Path) -> tuple[dict[str, int], HostParams]:
    """Read the header and weights of an llm.c file, with its own names and shapes."""
    data = path.read_bytes()
    magic, version, T, V, L, NH, C, Vp = struct.unpack_from("<8i", data)
    assert magic == 20240326
    sizes = {"version": version, "T": T, "V": V, "L": L, "NH": NH, "C": C, "Vp": Vp}
    shapes = {"wte": (Vp, C), "wpe": (T, C)}
    shapes |= {"ln1w": (L, C), "ln1b": (L, C), "qkvw": (L, 3 * C, C), "qkvb": (L, 3 * C)}
    shapes |= {"attprojw": (L, C, C), "attprojb": (L, C), "ln2w": (L, C), "ln2b": (L, C)}
    shapes |= {"fcw": (L, 4 * C, C), "fcb": (L, 4 * C), "fcprojw": (L, C, 4 * C), "fcprojb": (L, C)}
    shapes |= {"lnfw": (C,), "lnfb": (C,)}
    width, position, found = (4 if version == 3 else 2), 1024, {}
    for name, shape in shapes.items():
        count = int(np.prod(shape))
        raw = np.frombuffer(data, f"<u{width}", count, position)
        found[name] = (raw if width == 4 else raw.astype("<u4") << 16).astype("<u4").view("<f4").reshape(shape)
        position += count * width
    assert position == len(data)
    return sizes, found


class NanoGPT(nn.Module):
    """nanoGPT's modules under their names, with either GELU."""

    def __init__(self, args: dict[str, Any], approximate: str = "none") -> None:
        super().__init__()
        width, bias = args["n_embd"], args["bias"]
        self.n_head, self.approximate = args["n_head"], approximate
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(args["vocab_size"], width),
                "wpe": nn.Embedding(args["block_size"], width),
                "h": nn.ModuleList(self.block(width, bias) for _ in range(args["n_layer"])),
                "ln_f": nn.LayerNorm(width, bias=bias),
            }
        )
        self.lm_head = nn.Linear(width, args["vocab_size"], bias=False)
        self.transformer["wte"].weight = self.lm_head.weight

    @staticmethod
    def block(width: int, bias: bool) -> nn.ModuleDict:
        linear: Callable[[int, int], nn.Linear] = lambda a, b: nn.Linear(a, b, bias=bias)  # noqa: E731
        return nn.ModuleDict(
            {
                "ln_1": nn.LayerNorm(width, bias=bias),
                "attn": nn.ModuleDict({"c_attn": linear(width, 3 * width), "c_proj": linear(width, width)}),
                "ln_2": nn.LayerNorm(width, bias=bias),
                "mlp": nn.ModuleDict({"c_fc": linear(width, 4 * width), "c_proj": linear(4 * width, width)}),
            }
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        parts: Any = self.transformer
        x = parts["wte"](tokens) + parts["wpe"](torch.arange(tokens.shape[1]))
        for block in parts["h"]:
            q, k, v = block["attn"]["c_attn"](block["ln_1"](x)).chunk(3, dim=-1)
            q, k, v = (y.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for y in (q, k, v))
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + block["attn"]["c_proj"](y.transpose(1, 2).flatten(2))
            y = nn.functional.gelu(block["mlp"]["c_fc"](block["ln_2"](x)), approximate=self.approximate)
            x = x + block["mlp"]["c_proj"](y)
        return self.lm_head(parts["ln_f"](x))

    def optimizer(self) -> torch.optim.AdamW:
        """An optimizer whose parameters are grouped as by its `configure_optimizers`."""
        params = list(self.parameters())
        groups = [
            {"params": [p for p in params if p.dim() >= 2], "weight_decay": 0.1},
            {"params": [p for p in params if p.dim() < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))
