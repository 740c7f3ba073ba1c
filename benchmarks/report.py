"""Rewrite BENCHMARKS.md from the JSON file of a benchmark run: see `test_train_step.py`."""

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

TARGET = Path(__file__).parent.parent / "BENCHMARKS.md"
HEAD = """# Benchmarks

Written by `benchmarks/report.py`; measure again with

```sh
pytest benchmarks --benchmark-json=/tmp/benchmarks.json
python benchmarks/report.py /tmp/benchmarks.json
```

One training step of GPT-2 124M (forward, backward, AdamW; random tokens, no dropout) through gpt2spec, and written by
hand in the framework, idiomatic and compiled ([`benchmarks/`](benchmarks)): PyTorch with SDPA, fused AdamW,
`torch.compile` of the model and autocast for bfloat16; JAX with `lax.scan`, one jitted step and donated state; tinygrad
with its `nn` layers and one TinyJit. NumPy is measured against eager PyTorch. The two take turns; the ratio is
the median over the pairs, below 1 where gpt2spec is faster. "First" is the time from arrays to the end of the first
step with cold caches, mostly compiling; "peak" the most memory of a process that does only this.
"""


def main(path: str) -> None:
    run = json.loads(Path(path).read_text())
    rows = [b["extra_info"] for b in run["benchmarks"] if b["extra_info"]]
    cpu = run["machine_info"].get("cpu", {})
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "torch", "jax", "tinygrad"))
    lines = [
        HEAD,
        f"{cpu.get('brand_raw', platform.processor())}, {cpu.get('count', '?')} cores, {run['datetime'][:10]}; "
        f"Python {platform.python_version()}, {packages}.\n",
        "| framework | batch | dtype | mode | step s | by hand | **ratio** | first s | by hand | peak GB | by hand |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        compiled = row["options"].get("compile", row["framework"] != "numpy")
        framework = row["framework"] + (" (2 layers)" if row["framework"] == "tinygrad" else "")
        figures = [f"{row[key][who]:.{digits}f}" for key, digits in (("first", 0), ("peak_gb", 1)) for who in WHO]
        lines.append(
            f"| {framework} | {row['rows']} x {row['positions']} | {row['options']['dtype']} "
            f"| {'compiled' if compiled else 'eager'} | {row['seconds']['gpt2spec']:.2f} "
            f"| {row['seconds']['hand']:.2f} | **{row['ratio']:.2f}** | {' | '.join(figures)} |"
        )
    TARGET.write_text("\n".join(lines) + "\n")


WHO = ("gpt2spec", "hand")

if __name__ == "__main__":
    main(sys.argv[1])
