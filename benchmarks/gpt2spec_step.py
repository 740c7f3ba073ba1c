"""One training step through gpt2spec, on any backend."""

import numpy as np

from gpt2spec import load_backend
from gpt2spec.config import GPT2Config
from gpt2spec.optimizer import AdamW, initial_state, train_step, update_scalars


class Gpt2specStep:
    """The settings of the hand-written steps: AdamW with decay 0.01 on everything, and no clipping."""

    def __init__(self, name: str, config: GPT2Config, params: dict, batch: list[np.ndarray], **options) -> None:
        self.backend = load_backend(name, **options)
        self.adamw = AdamW()
        self.state = initial_state(self.backend.ops, self.backend.load_params(params))
        self.update = train_step(self.backend, config, self.adamw)
        self.batch = [self.backend.put(x) for x in batch]
        self.step = 0

    def __call__(self) -> float:
        self.step += 1
        scalars = {n: self.backend.put(np.float64(x)) for n, x in update_scalars(self.adamw, 1e-4, self.step).items()}
        self.state, metrics = self.update(self.state, *self.batch, scalars, None)
        return float(self.backend.to_numpy(metrics["loss"]))
