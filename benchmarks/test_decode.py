"""Greedy decoding of GPT-2 124M: a prompt of 32 tokens and 128 new ones, against Hugging Face and CTranslate2.

    pytest benchmarks/test_decode.py --benchmark-json=/tmp/decode.json && python benchmarks/report.py /tmp/decode.json

All take turns; "step" is the time of a token after the first, for all rows together. Speed is that of a whole turn
of Hugging Face (float32, eager) over that of the contestant, the median over the turns. CTranslate2 is
`pip install ctranslate2`; without it its cases skip.
"""

import statistics
import time
from typing import Any

import pytest
from decode_contestants import NEW, Decode, ctranslate2, hugging_face, ours

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


def contestant(who: str, how: str, rows: int) -> Decode:
    if who == "Hugging Face":
        return hugging_face(rows, how)
    if who == "CTranslate2":
        pytest.importorskip("ctranslate2")
        return ctranslate2(rows, how)
    backend = who.split()[1]
    pytest.importorskip(backend)
    options: dict[str, Any] = {
        "float32": {},
        "bfloat16": {"dtype": "bfloat16"},
        "int8": {"int8": True},
        "float32, --no-compile": {"compile": False},
    }[how]
    return ours(rows, backend, **options)


def timed(decode: Decode) -> tuple[float, float]:
    """Seconds to the first token, and for each one after it."""
    start = time.perf_counter()
    decode(1)
    first = time.perf_counter() - start
    start = time.perf_counter()
    decode(NEW)
    return first, (time.perf_counter() - start - first) / (NEW - 1)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("rows", CASES)
def test_decoding(benchmark, rows: int) -> None:
    decoders, floors = {}, {}
    for who, how, floor in CASES[rows]:
        try:
            decoders[who, how] = contestant(who, how, rows)
        except pytest.skip.Exception as absent:
            print(f"\n{who} {how}: {absent}")
        floors[who, how] = floor
    found: dict[Any, list[tuple[float, float]]] = {name: [] for name in decoders}

    def turn() -> None:
        for name, decode in decoders.items():
            found[name].append(timed(decode))

    benchmark.pedantic(turn, rounds=ROUNDS, warmup_rounds=1)
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
