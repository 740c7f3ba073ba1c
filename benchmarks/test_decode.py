"""Greedy decoding of GPT-2 124M: a prompt of 32 tokens and 128 new ones, against Hugging Face and CTranslate2.

    pytest benchmarks/test_decode.py --benchmark-json=/tmp/decode.json && python benchmarks/report.py /tmp/decode.json

All take turns, each in a process of its own: the threads of several libraries in one would spin against each other.
"step" is the time of a token after the first, for all rows together. Speed is that of a whole turn
of Hugging Face (float32, eager) over that of the contestant, the median over the turns. CTranslate2 is
`pip install ctranslate2`; without it its cases skip.
"""

import statistics
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from decode_contestants import NEW

MODULES = {"Hugging Face": "transformers", "CTranslate2": "ctranslate2"}
ROUNDS = 5
CASES = {
    1: [
        ("Hugging Face", "float32", None),
        ("Hugging Face", "bfloat16", None),
        ("CTranslate2", "float32", None),
        ("CTranslate2", "int8", None),
        ("gpt2spec torch", "float32", 1.4),
        ("gpt2spec torch", "float32, --no-compile", None),
        ("gpt2spec torch", "bfloat16", 1.4),
        ("gpt2spec torch", "int8", 1.4),
        ("gpt2spec jax", "float32", 1.0),
        ("gpt2spec numpy", "float32", 1 / 1.5),
    ],
    8: [
        ("Hugging Face", "float32", None),
        ("Hugging Face", "bfloat16", None),
        ("CTranslate2", "float32", None),
        ("CTranslate2", "int8", None),
        ("gpt2spec torch", "float32", 1.0),
        ("gpt2spec torch", "bfloat16", 1.0),
        ("gpt2spec torch", "int8", None),
        ("gpt2spec jax", "float32", None),
        ("gpt2spec numpy", "float32", None),
    ],
}
"""For each number of rows: who, in what, and how fast it must be at least, Hugging Face in float32 being 1."""


class Contestant:
    """A process that decodes when it is its turn."""

    def __init__(self, who: str, how: str, rows: int) -> None:
        program = str(Path(__file__).with_name("decode_contestants.py"))
        self.process = subprocess.Popen(
            [sys.executable, program, who, how, str(rows)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        while self.answer() != "ready":  # what libraries print meanwhile
            pass

    def timed(self) -> tuple[float, float]:
        """Seconds to the first token, and for each one after it."""
        first = self.seconds(1)
        return first, (self.seconds(NEW) - first) / (NEW - 1)

    def seconds(self, count: int) -> float:
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        return float(self.answer())

    def leave(self) -> None:
        self.process.kill()
        self.process.communicate()

    def answer(self) -> str:
        line = self.process.stdout.readline()
        assert line, f"{self.process.args} has ended"
        return line.strip()


@pytest.mark.timeout(0)
@pytest.mark.parametrize("rows", CASES)
def test_decoding(benchmark, rows: int) -> None:
    floors = {(who, how): floor for who, how, floor in CASES[rows] if find_spec(MODULES.get(who, who.split()[-1]))}
    contestants = {name: Contestant(*name, rows) for name in floors}
    found: dict[Any, list[tuple[float, float]]] = {name: [] for name in contestants}

    def turn() -> None:
        for name, contestant in contestants.items():
            found[name].append(contestant.timed())

    benchmark.pedantic(turn, rounds=ROUNDS, warmup_rounds=1)
    for contestant in contestants.values():
        contestant.leave()
    rows_of_table, slow = [], []
    reference = [step for _, step in found["Hugging Face", "float32"][1:]]
    for name, times in found.items():
        first, step = (statistics.median(column) for column in zip(*times[1:], strict=True))
        speed = statistics.median(a / b for a, (_, b) in zip(reference, times[1:], strict=True))
        rows_of_table.append({"who": name[0], "how": name[1], "first": first, "step": step, "speed": speed})
        print(f"\n{rows} rows, {name}: first {first * 1e3:.0f} ms, step {step * 1e3:.1f} ms, speed {speed:.2f}")
        if floors[name] is not None and speed < floors[name]:
            slow.append((name, speed))
    benchmark.extra_info.update(decoding=rows_of_table, rows=rows)
    assert not slow
