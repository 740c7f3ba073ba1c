"""This module reads and writes nanoGPT's checkpoints, `ckpt.pt`, with the key `model` for weights.

The sizes are under `model_args`. Projections are stored [out, in]. A model without biases is read as one whose biases
are zero, which computes the same. torch.compile leaves `_orig_mod.` before the names. nanoGPT's layer norm has epsilon
1e-5. Its code computes the exact GELU, by the error function, where GPT-2 has the approximation by tanh; the file does
not say with which the model was trained.

Source: `train.py` and `model.py` of github.com/karpathy/nanoGPT.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gpt2spec.checkpoints.reader import (
    EMBEDDING,
    HEAD,
    TRANSFORMER,
    CheckpointReader,
    Entry,
    Tensors,
    check_layers,
    config_with,
    drop_tied_head,
    fitting,
    is_projection,
)
from gpt2spec.checkpoints.tokenizers import TokenizerRecord
from gpt2spec.checkpoints.torch_file import Placeholder, TorchFile, write_torch
from gpt2spec.config import GPT2Config
from gpt2spec.errors import CheckpointError
from gpt2spec.parameters import weight_table
from gpt2spec.tokenizer import comes_along

COMPILED = "_orig_mod."
EPSILON = 1e-5
TOKENIZER, MERGES = "tokenizer", "merges"
GELU_NOTE = "nanoGPT's own code has the exact GELU; here, as in GPT-2, the same weights run with the one by tanh"
_SIZES = {
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "n_ctx": "block_size",
    "vocab_size": "vocab_size",
}


def open_nanogpt(path: Path) -> CheckpointReader:
    """Open a `.pt` file. No code in it is run."""
    file = TorchFile(path)
    contents = file.contents
    found = {name: contents.get(name) if isinstance(contents, dict) else None for name in ("model", "model_args")}
    for name, value in found.items():
        if not isinstance(value, dict):
            raise CheckpointError(f"{path} is no checkpoint of nanoGPT: it has no {name!r}")
    model, model_args = found["model"] or {}, found["model_args"] or {}
    config = _config(path, model_args)
    entries = dict(_entries(file, model))
    drop_tied_head(path, entries)
    check_layers(path, config, entries)
    if not model_args.get("bias") and not any(name.endswith(".bias") for name in entries):
        entries |= {w.name: _zeros(w.name, w.shape) for w in weight_table(config) if w.name.endswith(".bias")}
    described = contents.get("config")
    tokenizer, merges = _tokenizer(path, described if isinstance(described, dict) else {})
    return CheckpointReader(path, "nanoGPT", config, fitting(path, config, entries), tokenizer, (GELU_NOTE,), merges)


def write_nanogpt(
    file: BinaryIO, config: GPT2Config, tensors: Tensors, dtype: str, record: TokenizerRecord | None
) -> None:
    """Write a checkpoint that nanoGPT can sample from and train further, from update 0 with AdamW's moments at zero.

    The tokenizer is recorded under `config`, which nanoGPT does not read: its id, and its merges unless it comes with
    gpt2spec.
    """
    table = weight_table(config)
    shapes = {w.name: w.shape[::-1] if is_projection(w.name) else w.shape for w in table}
    model = {f"{TRANSFORMER}{name}": Placeholder(name, shape) for name, shape in shapes.items()}
    contents = {
        "model": model | {HEAD: Placeholder(EMBEDDING, shapes[EMBEDDING])},
        "optimizer": _fresh_adamw(len([w for w in table if w.is_matrix]), len([w for w in table if not w.is_matrix])),
        "model_args": {
            **{theirs: getattr(config, ours) for ours, theirs in _SIZES.items()},
            "bias": True,
            "dropout": config.dropout,
        },
        "iter_num": 0,
        "best_val_loss": 1e9,  # nanoGPT's initial value
        "config": {} if record is None else _config_of(record),
    }
    stored = ((name, values.T if is_projection(name) else values) for name, values in tensors)
    write_torch(file, contents, stored, dtype)


def _fresh_adamw(matrices: int, vectors: int) -> dict[str, Any]:
    """The state of nanoGPT's AdamW before its first update: matrices are decayed, vectors are not."""
    settings = {"lr": 6e-4, "betas": (0.9, 0.95), "eps": 1e-8, "amsgrad": False, "maximize": False}
    decayed = {**settings, "weight_decay": 0.1, "params": list(range(matrices))}
    others = {**settings, "weight_decay": 0.0, "params": list(range(matrices, matrices + vectors))}
    return {"state": {}, "param_groups": [decayed, others]}


def _config_of(record: TokenizerRecord) -> dict[str, str]:
    """The tokenizer as plain text, which a file of weights alone may hold."""
    if record.tokenizer is None or comes_along(record.id):
        return {TOKENIZER: record.id}
    return {TOKENIZER: record.id, MERGES: record.tokenizer.merges.decode("utf-8")}


def _tokenizer(path: Path, described: dict[Any, Any]) -> tuple[str | None, str | None]:
    """The id and merges that `_config_of` wrote. Files written by nanoGPT have neither."""
    tokenizer, merges = described.get(TOKENIZER), described.get(MERGES)
    if not isinstance(tokenizer, str):
        return None, None
    if merges is not None and not isinstance(merges, str):
        raise CheckpointError(f"{path} is damaged: the merges of its tokenizer are no text but {type(merges).__name__}")
    return tokenizer, merges


def _config(path: Path, given: dict[str, Any]) -> GPT2Config:
    for name in _SIZES.values():
        if name not in given:
            raise CheckpointError(f"{path}: its 'model_args' lack {name!r}")
    dropout = given.get("dropout", 0.0)
    rates = {"dropout": dropout, "attn_dropout": dropout}  # nanoGPT has one rate for all
    return config_with(path, {ours: given[theirs] for ours, theirs in _SIZES.items()} | rates)


def _entries(file: TorchFile, model: dict[Any, Any]) -> Iterator[tuple[str, Entry]]:
    """The weights under our names, and the head under its own. The causal masks of old files are left out."""
    seen = set()
    for theirs in model:
        bare = str(theirs).removeprefix(COMPILED)
        name = bare.removeprefix(TRANSFORMER)
        if name.endswith(".attn.bias"):
            continue
        if name in seen:
            raise CheckpointError(f"{file.path} has the weight {name!r} twice")
        seen.add(name)
        yield name, file.entry(str(theirs), ("model", theirs), is_projection(name))


def _zeros(name: str, shape: tuple[int, ...]) -> Entry:
    return Entry(name, shape, "float32", lambda: np.zeros(shape, np.float32))
