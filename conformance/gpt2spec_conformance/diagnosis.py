"""The diagnosis finds the classic mistake that explains what a subject got wrong.

Every mutant of the catalogue answers the failed cases too, on the float64 oracle. The mistake is the one that gives
the subject's own wrong answers, within the budget in which right answers agree. Where no single mutant does, the best
one is tried together with each of the others: two mistakes often differ in where they first show.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from gpt2spec.plugins import load_backend
from gpt2spec_conformance.case import Answer, Case, Nonconformance
from gpt2spec_conformance.cases import all_cases
from gpt2spec_conformance.judge import JudgedTensor, budget, compare
from gpt2spec_conformance.level import LEVELS
from gpt2spec_conformance.mutants import Mutant, MutatedSubject, catalogue
from gpt2spec_conformance.runner import Result, judge_answer

SLACK = 4.0
"""A mutant explains an answer within so many budgets: some mistakes make rounding worse."""
MOST_CASES = 12
"""So many failed cases are enough to distinguish mistakes."""
SCREEN_CASES = 3
SCREENED = 12
SLOW = ("training", "lengths")
"""Families of cases that take long with every mutant."""
FARTHEST = 1e9
"""A distance in budgets: those beyond it count as this, and those below its inverse as the inverse."""
MOST_SUSPECTS = 5
DIVERGENCES = {family: words for level in LEVELS.values() for family, words in level.divergences.items()}
"""The words for where a subject goes wrong, by the family of the cases that it fails."""


@dataclass(frozen=True)
class Suspect:
    """A mistake, or two, that would explain what went wrong.

    Attributes:
        mutant: its name in the catalogue; "a + b" for two.
        summary: what is done wrong.
        spec: what the specification says, and where.
        explains: the number of failed cases whose answers it gives; 0 where it is only known to fail them.
        of: the number of failed cases that were compared.
        distance: of the subject's answers to the mutant's: the mean logarithm of errors over budgets.
    """

    mutant: str
    summary: str
    spec: str
    explains: int
    of: int
    distance: float


@dataclass(frozen=True)
class Diagnosis:
    """The probable mistakes.

    Attributes:
        suspects: the likeliest first; empty where nothing in the catalogue fits.
        first_divergence: where in the model the first wrong value stands, in words; may be empty.
    """

    suspects: tuple[Suspect, ...]
    first_divergence: str


def diagnose(results: Sequence[Result], dtype: str) -> Diagnosis:
    """Explains the failed results of one subject that computes in `dtype`."""
    by_id = {case.id: case for case in all_cases()}
    failed = [(by_id[r.id], r) for r in results if r.status == "failed" and r.id in by_id]
    if not failed:
        return Diagnosis((), "")
    passed = {r.id for r in results if r.status == "passed"}
    candidates = [m for m in catalogue().values() if not m.right and m.killed_by not in passed]
    chosen = _most_telling(failed)
    suspects = _suspects([(m,) for m in candidates], chosen, dtype)
    if suspects and suspects[0].explains < len(chosen):
        first = catalogue()[suspects[0].mutant]
        pairs = _suspects([(first, m) for m in candidates if m is not first], chosen, dtype)
        suspects = sorted([*suspects, *(p for p in pairs if p.explains > suspects[0].explains)], key=_rank)
    if not suspects:  # no answer to compare, or one that is another each time: the cases that mistakes are known for
        ids = [case.id for case, _ in failed]
        known = sorted((m for m in candidates if m.killed_by in ids), key=lambda m: ids.index(m.killed_by))
        suspects = [Suspect(m.name, m.summary, m.spec, 0, len(chosen), math.log(FARTHEST)) for m in known]
    return Diagnosis(tuple(suspects[:MOST_SUSPECTS]), _first_divergence([r for _, r in failed]))


def _most_telling(failed: Sequence[tuple[Case, Result]]) -> list[tuple[Case, Result]]:
    """Picks one case of every family, then a second of each, and so on; slow families only where there is no other."""
    families: dict[str, list[tuple[Case, Result]]] = {}
    for case, result in failed:
        families.setdefault(case.family, []).append((case, result))
    for slow in SLOW:
        if len(families) > 1:
            families.pop(slow, None)
    rounds = itertools.zip_longest(*families.values())
    return [pair for one_of_each in rounds for pair in one_of_each if pair is not None][:MOST_CASES]


def _suspects(
    candidates: Sequence[tuple[Mutant, ...]], failed: Sequence[tuple[Case, Result]], dtype: str
) -> list[Suspect]:
    """The candidates that explain anything, the best first: all are tried on a few cases, the best on every case."""
    if len(failed) > SCREEN_CASES:
        screened = {_suspect(mutants, failed[:SCREEN_CASES], dtype): mutants for mutants in candidates}
        candidates = [screened[suspect] for suspect in sorted(screened, key=_rank)[:SCREENED]]
    suspects = [_suspect(mutants, failed, dtype) for mutants in candidates]
    return sorted((suspect for suspect in suspects if suspect.explains), key=_rank)


def _rank(suspect: Suspect) -> tuple[float, ...]:
    return (-suspect.explains, suspect.mutant.count("+"), suspect.distance)


def _suspect(mutants: tuple[Mutant, ...], failed: Sequence[tuple[Case, Result]], dtype: str) -> Suspect:
    distances = [_distance(mutants, case, result, dtype) for case, result in failed]
    return Suspect(
        " + ".join(m.name for m in mutants),
        "; and ".join(m.summary for m in mutants),
        "; ".join(dict.fromkeys(m.spec for m in mutants)),
        sum(d <= SLACK for d in distances),
        len(distances),
        sum(math.log(min(max(d, 1 / FARTHEST), FARTHEST)) for d in distances) / len(distances),
    )


def _distance(mutants: tuple[Mutant, ...], case: Case, result: Result, dtype: str) -> float:
    """The distance of the subject's answer from the mutants', in budgets; infinite where they cannot be compared."""
    if result.answer is None:  # the case judged by itself; only its own mutants are known to fail it
        return 0.0 if any(m.killed_by == case.id for m in mutants) else math.inf
    answer = _wrong_answer(mutants, case, dtype)
    if answer is None:
        return math.inf
    try:
        tensors = compare(result.answer, answer, case.metric, case.unit or dtype)
    except Nonconformance:
        return math.inf
    allowed = max(budget(case, dtype), 1.0)
    first = _first_wrong(result.tensors, result.budget)
    own = next((t.error for t in tensors if first and t.name == first.name), tensors[0].error)
    # Where another mistake follows, the first wrong tensor still is the first mistake's; it is worth less than a match.
    return min(tensors[0].error / allowed, SLACK / 2 + own / allowed if first and own <= allowed else math.inf)


@cache
def _wrong_answer(mutants: tuple[Mutant, ...], case: Case, dtype: str) -> Answer | None:
    """The mutants' answer; None where they crash or are not wrong."""
    subject = MutatedSubject(load_backend("numpy", dtype="float64", mode="reference"), mutants)
    try:
        answer, tensors = judge_answer(case, case.ask(subject), dtype)
    except Exception:
        return None
    return answer if tensors[0].error > budget(case, dtype) else None


_ORDER = {"attn": 0, "mlp": 1, "residual": 2}
_WORDS = {"attn": "attention output", "mlp": "MLP output", "residual": "residual stream"}


def _tap_order(name: str) -> tuple[int, int]:
    _, layer, tap = name.split(".")
    return int(layer), _ORDER[tap]


def _first_wrong(tensors: Sequence[JudgedTensor], allowed: float | None) -> JudgedTensor | None:
    """The first tap beyond the budget, going up from the embedding; None where no tensor is a tap."""
    taps = [t for t in tensors if t.name.count(".") == 2 and t.name.split(".")[2] in _ORDER]
    wrong = [tap for tap in taps if tap.error > (allowed or 0)]
    return min(wrong, key=lambda tap: _tap_order(tap.name)) if wrong else None


def _first_divergence(failed: Sequence[Result]) -> str:
    for result in failed:
        if first := _first_wrong(result.tensors, result.budget):
            layer, tap = first.name.split(".")[1:]
            return f"{_WORDS[tap]} of block {layer} ({result.id})"
    ids = [result.id for result in failed]
    if any(id.startswith("model.logits") for id in ids):
        taps_failed = any(id.startswith("model.taps") for id in ids)
        return "" if taps_failed else "after the last block: final layer norm or head"
    for family, words in DIVERGENCES.items():
        if any(id.startswith(family) for id in ids):
            return words
    return ""
