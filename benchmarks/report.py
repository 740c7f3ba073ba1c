"""Rewrite BENCHMARKS.md from the JSON files of benchmark runs.

Where several files have the same case, the last one counts.
"""

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from contestants import MODELS

from gpt2spec.costs import forward_flops_per_token
from gpt2spec.parameters import count_parameters

TARGET = Path(__file__).parent.parent / "BENCHMARKS.md"
HEAD = """# Benchmarks

Written by `benchmarks/report.py`; measure again with

```sh
pip install -c constraints.txt -e ".[all,test]" ctranslate2
pytest benchmarks --benchmark-json=/tmp/benchmarks.json
python benchmarks/report.py /tmp/benchmarks.json
```

on a machine that does nothing else. All figures are medians of contestants that take turns.
"""
TRAINING = """## A training step

One training step of GPT-2 124M (forward, backward, AdamW; random tokens, no dropout) through gpt2spec, and written by
hand in the framework, idiomatic and compiled ([`benchmarks/`](benchmarks)): PyTorch with SDPA, fused AdamW,
`torch.compile` of the model and autocast for bfloat16; JAX with `lax.scan`, one jitted step and donated state; tinygrad
with its `nn` layers and one TinyJit. NumPy is measured against eager PyTorch. The two take turns; the ratio is
the median over the pairs, below 1 where gpt2spec is faster. "First" is the time from arrays to the end of the first
step with cold caches, mostly compiling; "peak" the most memory of a process that does only this. "Times floor" is
the step beside what the machine needs at least: the arithmetic at the speed of a large matrix product, and AdamW's
16 bytes a parameter at that of reading memory.
"""


DECODING = """
## Decoding

Greedy, a prompt of 32 tokens and 128 new ones, random weights (`benchmarks/test_decode.py`). "First" is the time to the
first token, "step" that of each later one for all rows; speed is against Hugging Face's `generate` in float32, above
1 where the contestant is faster. `int8` is weights only; CTranslate2's rounds activations too.
"""
WHO = ("gpt2spec", "hand")


def main(paths: list[str]) -> None:
    runs = [json.loads(Path(path).read_text()) for path in paths]
    cases = {case["name"]: case["extra_info"] for run in runs for case in run["benchmarks"] if case["extra_info"]}
    cpu = runs[-1]["machine_info"].get("cpu", {})
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "torch", "jax", "tinygrad"))
    machine = f"{cpu.get('brand_raw', platform.processor())}, {cpu.get('count', '?')} cores"
    when = runs[-1]["datetime"][:10]
    limits = next((case["machine"] for case in cases.values() if "machine" in case), None)
    if limits is None:
        sys.exit("test_machine.py is in none of these runs")
    rates = ", ".join(f"{rate:.0f} GFLOP/s in {dtype}" for dtype, rate in limits["gflops"].items())
    lines = [
        f"{HEAD}\n{machine}, {when}; Python {platform.python_version()}, {packages}.",
        f"The most it does (`benchmarks/test_machine.py`): {rates}, {limits['gigabytes']:.1f} GB/s read.\n",
        TRAINING,
        *training_table([case for case in cases.values() if "ratio" in case], limits),
    ]
    decoding = [case for case in cases.values() if "decoding" in case]
    lines += [DECODING, *decoding_table(decoding)] if decoding else []
    TARGET.write_text("\n".join(lines) + "\n")


def floor(case: dict[str, Any], limits: dict[str, Any]) -> float:
    """Seconds that a training step takes at least."""
    config = MODELS["gpt2, 2 layers" if case["framework"] == "tinygrad" else "gpt2"]
    flops = 3 * forward_flops_per_token(config, case["positions"]) * case["rows"] * case["positions"]
    arithmetic = flops / (limits["gflops"][case["options"]["dtype"]] * 1e9)
    return arithmetic + 16 * count_parameters(config) / (limits["gigabytes"] * 1e9)


def training_table(cases: list[dict[str, Any]], limits: dict[str, Any]) -> list[str]:
    lines = [
        "| framework | batch | dtype | mode | step s | by hand | **ratio** | times floor "
        "| first s | by hand | peak GB | by hand |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        compiled = case["options"].get("compile", case["framework"] != "numpy")
        framework = case["framework"] + (" (2 layers)" if case["framework"] == "tinygrad" else "")
        figures = [f"{case[key][who]:.{digits}f}" for key, digits in (("first", 0), ("peak_gb", 1)) for who in WHO]
        lines.append(
            f"| {framework} | {case['rows']} x {case['positions']} | {case['options']['dtype']} "
            f"| {'compiled' if compiled else 'eager'} | {case['seconds']['gpt2spec']:.2f} "
            f"| {case['seconds']['hand']:.2f} | **{case['ratio']:.2f}** "
            f"| {case['seconds']['gpt2spec'] / floor(case, limits):.2f} "
            f"| {' | '.join(figures)} |"
        )
    return lines


def decoding_table(cases: list[dict[str, Any]]) -> list[str]:
    lines = ["| rows | who | weights | first ms | step ms | **speed** |", "|---|---|---|---|---|---|"]
    for case in sorted(cases, key=lambda case: case["rows"]):
        for row in sorted(case["decoding"], key=lambda row: row["step"]):
            lines.append(
                f"| {case['rows']} | {row['who']} | {row['how']} | {row['first'] * 1e3:.0f} "
                f"| {row['step'] * 1e3:.1f} | **{row['speed']:.2f}** |"
            )
    return lines


if __name__ == "__main__":
    main(sys.argv[1:])
