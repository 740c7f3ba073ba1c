"""One training step of GPT-2 through gpt2spec, and the same written by hand in the framework."""

from collections.abc import Callable
from typing import Any

import numpy as np
from gpt2spec_step import Gpt2specStep

from gpt2spec import initial_parameters, preset
from gpt2spec.config import GPT2Config

MODELS = {
    "gpt2": preset("gpt2", dropout=0.0),
    # What tinygrad compiles for a CPU takes half a minute for a step of all twelve layers.
    "gpt2, 2 layers": preset("gpt2", dropout=0.0, n_layer=2),
}


def contestant(framework: str, who: str, rows: int, positions: int, options: dict[str, Any]) -> Callable[[], float]:
    """A training step that returns its loss; `who` is "gpt2spec" or "hand"."""
    config = MODELS["gpt2, 2 layers" if framework == "tinygrad" else "gpt2"]
    params, batch = initial_parameters(config), random_batch(config, rows, positions)
    dtype, compile = options.get("dtype", "float32"), options.get("compile", True)
    if who == "gpt2spec":
        switch = {"compile": compile} if framework == "torch" else {}
        return Gpt2specStep(framework, config, params, batch, dtype=dtype, **switch)
    if framework == "jax":
        from jax_gpt2 import JaxStep

        return JaxStep(config, params, batch, dtype)
    if framework == "tinygrad":
        from tinygrad_gpt2 import TinygradStep

        return TinygradStep(config, params, batch)
    from torch_gpt2 import TorchStep  # also what NumPy is measured against, eager

    return TorchStep(config, params, batch, compile and framework == "torch", dtype)


def random_batch(config: GPT2Config, rows: int, positions: int) -> list[np.ndarray]:
    """Tokens and targets, each [rows, positions]."""
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (rows, positions + 1))
    return [tokens[:, :-1].copy(), tokens[:, 1:].copy()]
