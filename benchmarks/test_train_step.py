"""A training step of GPT-2 124M through gpt2spec, against the same written by hand in the framework.

    pytest benchmarks --benchmark-json=/tmp/benchmarks.json && python benchmarks/report.py /tmp/benchmarks.json

The two take turns, so that a machine whose speed drifts still gives a ratio: the median of the pairs' ratios.
Both start from the same weights, and their losses must agree, or the yardstick measures something else.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contestants import contestant

LARGEST_RATIO = {"numpy": 1.5, "torch": 1.03, "jax": 1.03, "tinygrad": 1.03}
SHORT, LONG = (4, 64), (2, 1024)
F32, BF16 = {"dtype": "float32"}, {"dtype": "bfloat16"}
CASES = [
    ("numpy", SHORT, F32),
    *[("torch", shape, d | {"compile": c}) for shape in (SHORT, LONG) for d in (F32, BF16) for c in (False, True)],
    *[("jax", shape, d) for shape, d in [(SHORT, F32), (SHORT, BF16), (LONG, F32)]],
    ("tinygrad", (1, 64), F32),
]


@pytest.fixture(scope="module", autouse=True)
def cold_caches(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile times are those of a first run."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path_factory.mktemp("inductor"))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path_factory.mktemp("jax"))
    os.environ["CACHEDB"] = str(tmp_path_factory.mktemp("tinygrad") / "cache.db")


@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    ("framework", "shape", "options"),
    CASES,
    ids=lambda x: x if isinstance(x, str) else "-".join(map(str, x.values() if isinstance(x, dict) else x)),
)
def test_training_step(benchmark, framework: str, shape: tuple[int, int], options: dict[str, Any]) -> None:
    pytest.importorskip(framework, exc_type=ImportError)
    first, steps, losses, seconds = {}, {}, {}, {"hand": [], "gpt2spec": []}
    for who in ("gpt2spec", "hand"):
        start = time.perf_counter()
        steps[who] = contestant(framework, who, *shape, options)
        losses[who] = steps[who]()
        first[who] = time.perf_counter() - start
    assert losses["gpt2spec"] == pytest.approx(losses["hand"], rel=1e-5 if options["dtype"] == "float32" else 1e-3)

    def timed(who: str) -> None:
        start = time.perf_counter()
        steps[who]()
        seconds[who].append(time.perf_counter() - start)

    rounds = 9 if shape == SHORT else 3
    benchmark.pedantic(timed, args=["gpt2spec"], setup=lambda: timed("hand"), rounds=rounds, warmup_rounds=1)
    ours, hand = (np.array(seconds[who][1:]) for who in ("gpt2spec", "hand"))
    ratio = float(np.median(ours / hand))
    steps.clear()
    benchmark.extra_info.update(
        framework=framework,
        rows=shape[0],
        positions=shape[1],
        options=options,
        seconds={"gpt2spec": float(np.median(ours)), "hand": float(np.median(hand))},
        ratio=ratio,
        first=first,
        peak_gb={who: peak(framework, who, shape, options) for who in ("gpt2spec", "hand")},
    )
    print(f"\n{framework} {shape} {options}: {np.median(ours):.3f} s, by hand {np.median(hand):.3f} s: {ratio:.3f}")
    assert ratio <= LARGEST_RATIO[framework]


def peak(framework: str, who: str, shape: tuple[int, int], options: dict[str, Any]) -> float:
    command = [sys.executable, str(Path(__file__).with_name("peak.py")), framework, who, *map(str, shape)]
    run = subprocess.run([*command, json.dumps(options)], capture_output=True, text=True, check=True)
    return float(run.stdout.split()[-1])
