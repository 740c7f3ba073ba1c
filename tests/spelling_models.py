"""Run directories of models whose output is known: they spell a text, whatever the prompt."""

from pathlib import Path

import numpy as np

from gpt2spec.checkpoints.native import TrainingState, save_checkpoint
from gpt2spec.config import GPT2Config
from gpt2spec.parameters import HostParams, initial_parameters
from gpt2spec.tokenizer import byte_tokenizer

CONFIG = GPT2Config(n_layer=1, n_head=2, n_embd=64, n_ctx=48, vocab_size=257, dropout=0.0)


def spelling_parameters(text: str, config: GPT2Config = CONFIG) -> HostParams:
    """Weights that predict byte i of `text` after position i, whatever its token, and then `<|endoftext|>`."""
    tokenizer = byte_tokenizer()
    ids = [*tokenizer.encode(text), tokenizer.end_of_text]
    params = initial_parameters(config, seed=0)
    for name, values in params.items():
        if "c_proj" in name:
            values[:] = 0.0  # the blocks add nothing
    params["wte.weight"][:] = np.random.default_rng(0).standard_normal(params["wte.weight"].shape)
    for position in range(config.n_ctx):
        params["wpe.weight"][position] = 100.0 * params["wte.weight"][ids[min(position, len(ids) - 1)]]
    return params


def write_run(run: Path, params: HostParams, config: GPT2Config = CONFIG, step: int = 1) -> Path:
    """A run directory with a checkpoint of a model that reads bytes."""
    zeros = {name: np.zeros_like(values) for name, values in params.items()}
    progress = {"step": step, "tokenizer": byte_tokenizer().id}
    save_checkpoint(run, config, params, TrainingState(zeros, zeros, progress))
    return run
