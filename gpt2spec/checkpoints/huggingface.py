"""The `config.json` that Hugging Face `transformers` reads beside a `model.safetensors`."""

import json
from pathlib import Path
from typing import Any

from gpt2spec.config import BYTE_VOCAB_SIZE, VOCAB_SIZE, GPT2Config
from gpt2spec.errors import CheckpointError, ConfigError

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
# what GPT-2 is, in transformers' words; a file that says otherwise is not a GPT-2
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


def config_to_json(config: GPT2Config, dtype: str = "float32") -> dict[str, Any]:
    """The contents of `config.json`, for weights stored in `dtype`."""
    fields = {theirs: getattr(config, ours) for ours, names in _NAMES.items() for theirs in names}
    end_of_text = config.vocab_size - 1 if config.vocab_size in (VOCAB_SIZE, BYTE_VOCAB_SIZE) else None
    return {
        "architectures": ["GPT2LMHeadModel"],
        **_FIXED,
        **fields,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": dtype,
    }


def config_from_json(path: Path) -> GPT2Config:
    """The configuration in a `config.json`; `CheckpointError` if it describes anything but a GPT-2."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    for name, expected in _FIXED.items():
        if found.get(name, expected) != expected:
            raise CheckpointError(f"{path} is not GPT-2's: {name} is {found[name]!r}, GPT-2 has {expected!r}")
    values: dict[str, Any] = {}
    for ours, names in _NAMES.items():
        given = {found[name] for name in names if name in found}
        if len(given) > 1:
            raise CheckpointError(f"{path} gives {' and '.join(names)} different values: {sorted(given)}")
        if given:
            values[ours] = given.pop()
    try:
        return GPT2Config(**values)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
