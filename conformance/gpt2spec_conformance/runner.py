"""The runner puts cases to a subject and judges its answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import numpy as np

from gpt2spec.config import GPT2Config
from gpt2spec.parameters import HostParams
from gpt2spec.plugins import load_backend
from gpt2spec_conformance.case import Answer, Case, Nonconformance, NotApplicable
from gpt2spec_conformance.judge import JudgedTensor, budget, compare
from gpt2spec_conformance.subject import BackendSubject, Subject

Status = Literal["passed", "failed", "error", "unsupported", "inapplicable"]


@dataclass(frozen=True)
class Result:
    """The outcome of a case.

    Attributes:
        id: the id of the case.
        level: the name of its level.
        status: "failed" is a wrong answer, "error" a crash, "unsupported" a subject without the operation,
            "inapplicable" one of which the case cannot be asked.
        error: of the worst tensor, in epsilons; None where the case judges by itself or did not get to an answer.
        budget: what was allowed.
        tensors: those of the answer, the worst first.
        message: what is wrong, in words; empty for a passed case.
        seconds: how long the subject took.
        answer: what the subject said, for the diagnosis.
    """

    id: str
    level: str
    status: Status
    error: float | None = None
    budget: float | None = None
    tensors: tuple[JudgedTensor, ...] = ()
    message: str = ""
    seconds: float = 0.0
    answer: Answer | None = field(default=None, repr=False, compare=False)


class Oracle(BackendSubject):
    """The definitions themselves, in NumPy and float64.

    Decoding through a cache must agree with a whole pass, and the sum of micro-batches' gradients with those of the
    batch: the oracle answers by the latter.
    """

    def __init__(self) -> None:
        super().__init__(load_backend("numpy", dtype="float64", mode="reference"), "oracle")

    def cached_logits(
        self, config: GPT2Config, params: HostParams, tokens: np.ndarray, lengths: Sequence[int], widths: Sequence[int]
    ) -> np.ndarray:
        """Returns the logits of the whole pass, and 0 beyond a row's length."""
        logits = self.logits(config, params, tokens)
        for row, length in enumerate(lengths):
            logits[row, length:] = 0.0
        return logits

    def accumulated_gradients(
        self,
        config: GPT2Config,
        params: HostParams,
        tokens: np.ndarray,
        targets: np.ndarray,
        sizes: Sequence[int],
    ) -> tuple[float, HostParams]:
        """Computes the whole batch at once."""
        return self.loss_and_gradients(config, params, tokens, targets)


@cache
def oracle() -> Subject:
    """The oracle, made once."""
    return Oracle()


@cache
def right_answer(case: Case) -> Answer:
    """The oracle's answer to a case."""
    return case.ask(oracle())


def judge_answer(case: Case, answer: Answer, dtype: str) -> tuple[Answer, tuple[JudgedTensor, ...]]:
    """What is judged of an answer, and its tensors, the worst first. Raises `Nonconformance` as `compare` does."""
    unit = case.unit or dtype
    if case.truth is None:
        return answer, tuple(compare(answer, right_answer(case), case.metric, unit))
    right = case.truth(answer)
    judged = {name: answer[name] for name in right}
    return judged, tuple(compare(judged, right, case.metric, unit))


def run_case(case: Case, subject: Subject) -> Result:
    """Puts one case to a subject."""
    if not subject.supports(case.operation):
        return Result(case.id, case.level, "unsupported", message=f"no {case.operation}")
    allowed = budget(case, subject.dtype)
    start = time.perf_counter()
    found: Answer | None = None
    try:
        found = case.ask(subject)
        seconds = time.perf_counter() - start
        found, tensors = judge_answer(case, found, subject.dtype)
    except Nonconformance as wrong:
        seconds = time.perf_counter() - start
        return Result(case.id, case.level, "failed", message=str(wrong), seconds=seconds, answer=found)
    except NotApplicable as reason:
        seconds = time.perf_counter() - start
        return Result(case.id, case.level, "inapplicable", message=str(reason), seconds=seconds)
    except Exception as crash:
        message = f"{type(crash).__name__}: {crash}".strip().splitlines()[0]
        return Result(case.id, case.level, "error", message=message, seconds=time.perf_counter() - start)
    worst = tensors[0]
    passed = worst.error <= allowed
    message = "" if passed else describe(worst, allowed)
    status: Status = "passed" if passed else "failed"
    return Result(case.id, case.level, status, worst.error, allowed, tensors, message, seconds, found)


def describe(tensor: JudgedTensor, allowed: float) -> str:
    """Says in one line what is wrong with a tensor."""
    where = f"{tensor.name}[{', '.join(map(str, tensor.index))}]"
    if allowed == 0.0:
        return f"{where} is {tensor.found:.7g}; it must be {tensor.expected:.7g}"
    off = f"{tensor.name} is off by {tensor.error:.3g} epsilons ({allowed:.3g} allowed)"
    return f"{off}; {where} is {tensor.found:.7g}, not {tensor.expected:.7g}"


def run_cases(
    cases: Iterable[Case], subject: Subject, progress: Callable[[Case], None] = lambda case: None
) -> Iterator[Result]:
    """Yields the results one by one; `progress` is called before each case."""
    for case in cases:
        progress(case)
        yield run_case(case, subject)
