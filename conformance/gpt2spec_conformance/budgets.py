"""This program writes `budgets.json`: the cases there are, and how far from the truth each may be.

    python -m gpt2spec_conformance.budgets

Several independent implementations answer every case in float32. The budget is eight times the worst of them, in
epsilons, and at least `FLOOR`. The oracle itself is confirmed first: Hugging Face's GPT-2 in float64 must agree with
it. The file also holds what was run and what was measured.
"""

import datetime
import json
import platform
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from gpt2spec.files import atomic_write
from gpt2spec.plugins import load_backend
from gpt2spec_conformance.case import Case
from gpt2spec_conformance.cases import all_cases
from gpt2spec_conformance.judge import BUDGETS
from gpt2spec_conformance.mutants import MutatedSubject
from gpt2spec_conformance.mutants.int8 import REFERENCE
from gpt2spec_conformance.runner import judge_answer
from gpt2spec_conformance.selection import applies
from gpt2spec_conformance.subject import BackendSubject, Subject

VERSION = 3
"""The version of the set of cases and budgets; results of different versions are not to be compared."""
FACTOR = 8.0
FLOOR = 4.0
"""The least budget in epsilons. Some cases lose no bit in any implementation at hand, but the next may round once."""
ORACLE_TOLERANCE = 1e-10
"""The relative difference that Hugging Face's float64 and ours may have."""
IMPLEMENTATIONS: list[tuple[str, dict[str, Any]]] = [
    ("numpy", {"mode": "fast"}),
    ("numpy", {"mode": "reference"}),
    ("torch", {"compile": False}),
    ("torch", {"compile": "blocks"}),
    ("jax", {}),
    ("tinygrad", {}),
]
ROUNDED: list[tuple[str, dict[str, Any]]] = [
    ("torch", {"int8": True}),
    ("torch", {"int8": True, "compile": False}),
]
"""The implementations that decode with int8 weights, beside NumPy and JAX with tensors that were rounded so."""


def main() -> None:
    """Measures every implementation and writes the file."""
    provenance = {
        "made": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("numpy", "torch", "jax", "tinygrad", "transformers")},
        "oracle-confirmed-by": "transformers GPT2LMHeadModel, float64",
        "oracle-differences": confirm_oracle(),
    }
    worst: dict[str, dict[str, float]] = {}
    for label, subject in implementations():
        for case, error in errors(subject):
            worst.setdefault(case.id, {})[label] = round(error, 3)
            print(f"{label:24} {case.id:36} {error:.3g}", flush=True)
    cases = {
        case.id: 0.0 if case.metric == "exact" else round(max(FLOOR, FACTOR * max(worst[case.id].values())), 1)
        for case in all_cases()
    }
    text = json.dumps({"version": VERSION, "provenance": provenance, "cases": cases, "measured": worst}, indent=1)
    with atomic_write(BUDGETS) as file:
        file.write((text + "\n").encode())


def implementations() -> Iterator[tuple[str, Subject]]:
    """Every subject whose errors are measured, with its name in the measurements."""
    for name, options in [*IMPLEMENTATIONS, *ROUNDED]:
        backend = load_backend(name, device="CPU" if name == "tinygrad" else "cpu", **options)
        yield " ".join([name, *(f"{key}={value}" for key, value in options.items())]), BackendSubject(backend)
    for name in ("numpy", "jax"):
        yield f"{name} with rounded tensors", MutatedSubject(load_backend(name, device="cpu"), [REFERENCE])


def errors(subject: Subject) -> Iterator[tuple[Case, float]]:
    """The subject's error in every case that has a budget."""
    for case in all_cases():
        if case.metric != "exact" and applies(case, subject) and subject.supports(case.operation):
            _, tensors = judge_answer(case, case.ask(subject), subject.dtype)
            yield case, tensors[0].error


def confirm_oracle() -> dict[str, float]:
    """The largest relative difference between the oracle and Hugging Face, in every case that both can answer."""
    from gpt2spec_conformance.subjects.huggingface import HuggingFaceSubject

    second = HuggingFaceSubject(dtype="float64")
    differences = {}
    for case, error in errors(second):
        if case.truth is None:
            differences[case.id] = error * 2.0**-52
    wrong = {id: x for id, x in differences.items() if not x < ORACLE_TOLERANCE}
    if wrong or not differences:
        raise SystemExit(f"the oracle and Hugging Face disagree: {wrong or 'no case compared'}")
    return differences


if __name__ == "__main__":
    main()
