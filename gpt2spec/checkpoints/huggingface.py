"""This module reads and writes the `config.json` of Hugging Face `transformers`."""

import json
from pathlib import Path
from typing import Any

from gpt2spec.checkpoints.reader import config_with
from gpt2spec.checkpoints.stored import read_errors
from gpt2spec.config import BYTE_VOCAB_SIZE, VOCAB_SIZE, GPT2Config
from gpt2spec.errors import CheckpointError

# our field -> the names transformers uses for it
_NAMES = {
    "n_layer": ("n_layer",),
    "n_head": ("n_head",),
    "n_embd": ("n_embd",),
    "n_ctx": ("n_positions", "n_ctx"),
    "vocab_size": ("vocab_size",),
    "layer_norm_epsilon": ("layer_norm_epsilon",),
    "dropout": ("embd_pdrop", "resid_pdrop"),
    "attn_dropout": ("attn_pdrop",),
    "initializer_range": ("initializer_range",),
    "wpe_initializer_range": ("wpe_initializer_range",),
}
# GPT-2's settings in transformers' words; a file with other values does not describe a GPT-2
_FIXED = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
    "n_inner": None,
}
# settings that must be absent or empty
_ABSENT = ("is_encoder_decoder", "pruned_heads", "quantization_config")
_ABSENT_RATE = 0.1
"""The attention dropout of a file that gives none: transformers' default, not ours."""


def config_to_json(config: GPT2Config, dtype: str = "float32") -> dict[str, Any]:
    """The contents of `config.json`, for weights stored in `dtype`."""
    fields = {theirs: getattr(config, ours) for ours, names in _NAMES.items() for theirs in names}
    return {
        "architectures": ["GPT2LMHeadModel"],
        **_FIXED,
        **fields,
        **special_tokens(config),
        "dtype": dtype,
    }


def special_tokens(config: GPT2Config) -> dict[str, int | None]:
    """The ids with which texts begin and end: that of `<|endoftext|>`, or None for a vocabulary that is not ours."""
    end_of_text = config.vocab_size - 1 if config.vocab_size in (VOCAB_SIZE, BYTE_VOCAB_SIZE) else None
    return {"bos_token_id": end_of_text, "eos_token_id": end_of_text}


def config_from_json(path: Path) -> GPT2Config:
    """Read a `config.json`; a `CheckpointError` says where it describes anything but a GPT-2."""
    with read_errors(path):
        found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is no configuration: a JSON object is expected")
    check_is_gpt2(path, found)
    values: dict[str, Any] = {"attn_dropout": _ABSENT_RATE}
    for ours, names in _NAMES.items():
        given = [found[name] for name in names if name in found]
        if any(value != given[0] for value in given):
            raise CheckpointError(f"{path} gives {' and '.join(names)} different values: {given}")
        if given:
            values[ours] = given[0]
    return config_with(path, values)


def check_is_gpt2(path: Path, found: dict[str, Any]) -> None:
    """Raise `CheckpointError` for the first setting that GPT-2 does not have."""
    fixed: dict[str, tuple[Any, ...]] = {name: (value,) for name, value in _FIXED.items()}
    if isinstance(found.get("n_embd"), int):
        fixed["n_inner"] += (4 * found["n_embd"],)  # the meaning of None
    for name, allowed in fixed.items():
        if found.get(name, allowed[0]) not in allowed:
            expected = " or ".join(map(repr, allowed))
            raise CheckpointError(f"{path} is not GPT-2's: {name} is {found[name]!r}, GPT-2 has {expected}")
    for name in _ABSENT:
        if found.get(name):
            raise CheckpointError(f"{path} is not GPT-2's: {name} is {str(found[name])[:80]!r}, GPT-2 has none")
