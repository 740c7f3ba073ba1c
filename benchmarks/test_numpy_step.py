"""One training step of GPT-2 124M, batch 4 x 64, float32, on the NumPy backend and in eager PyTorch.

    pytest benchmarks/test_numpy_step.py

The two take turns, so that a machine whose speed drifts still gives a ratio; see `extra_info` in the output.
"""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch_gpt2 import GPT2

from gpt2spec import initial_parameters, load_backend, preset
from gpt2spec.optimizer import AdamW, initial_state, train_step, update_scalars

ROUNDS = 7
BATCH, CONTEXT = 4, 64
LARGEST_RATIO = 1.5
LARGEST_PEAK_GB = 2.5


class NumpyStep:
    def __init__(self) -> None:
        config = preset("gpt2", dropout=0.0)
        self.backend = load_backend("numpy")
        self.state = initial_state(self.backend.ops, self.backend.load_params(initial_parameters(config)))
        self.adamw = AdamW()
        self.update = train_step(self.backend, config, self.adamw)
        self.batch = [self.backend.put(x) for x in random_batch()]
        self.step = 0

    def __call__(self) -> float:
        self.step += 1
        scalars = {n: self.backend.put(np.float64(x)) for n, x in update_scalars(self.adamw, 1e-4, self.step).items()}
        self.state, metrics = self.update(self.state, *self.batch, scalars, None)
        return float(metrics["loss"])


class TorchStep:
    def __init__(self, fused: bool) -> None:
        self.model = GPT2(n_layer=12, n_head=12, n_embd=768, n_ctx=1024, vocab_size=50257)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01, fused=fused
        )
        self.batch = [torch.from_numpy(x) for x in random_batch()]

    def __call__(self) -> float:
        loss = self.model(*self.batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


def random_batch() -> list[np.ndarray]:
    tokens = np.random.default_rng(0).integers(0, 50257, (BATCH, CONTEXT + 1))
    return [tokens[:, :-1].copy(), tokens[:, 1:].copy()]


@pytest.mark.parametrize("optimizer", ["default", "fused"])
def test_step_takes_little_longer_than_pytorch_eager(benchmark, optimizer: str) -> None:
    ours, theirs = NumpyStep(), TorchStep(fused=optimizer == "fused")
    peer_seconds: list[float] = []

    def peer() -> None:
        start = time.perf_counter()
        theirs()
        peer_seconds.append(time.perf_counter() - start)

    benchmark.pedantic(ours, setup=peer, rounds=ROUNDS, warmup_rounds=1)
    median = float(np.median(peer_seconds[1:]))
    ratio = benchmark.stats.stats.median / median
    benchmark.extra_info.update(pytorch_eager_median_s=round(median, 3), ratio=round(ratio, 3))
    print(
        f"\nNumPy {benchmark.stats.stats.median:.3f} s, PyTorch eager ({optimizer} AdamW) {median:.3f} s: {ratio:.2f}"
    )
    assert ratio <= LARGEST_RATIO


def test_peak_memory_of_a_step() -> None:
    """In a process of its own, from Linux's VmHWM: `ru_maxrss` would begin with that of the parent."""
    script = (
        "import json, pathlib, sys; sys.path.insert(0, 'benchmarks')\n"
        "from test_numpy_step import NumpyStep\n"
        "status = pathlib.Path('/proc/self/status')\n"
        "def peak(): return int(status.read_text().split('VmHWM:')[1].split()[0]) * 1024 / 1e9\n"
        "imports = peak(); step = NumpyStep(); step(); step(); print(json.dumps([imports, peak()]))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    imports, peak = json.loads(run.stdout)
    print(f"\npeak {peak:.2f} GB, of which {imports:.2f} GB are imported modules (PyTorch's among them)")
    assert peak <= LARGEST_PEAK_GB
