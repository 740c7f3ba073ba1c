"""Mistakes in beam search."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from gpt2spec.config import GPT2Config
from gpt2spec.decoding.beam import Beam, Search
from gpt2spec.decoding.options import GenerateOptions
from gpt2spec.parameters import HostParams
from gpt2spec_conformance.mutants.fault import Mutant

SEARCH = "the beams with the largest sums of log-probabilities go on, whichever they continue (decoding.beam.Search)"
SCORE = "a sum of log-probabilities, the stop token's too, over new tokens ** length_penalty (decoding.beam.Search)"
ENDS = "ended beams wait with their scores until none that grows could beat them (decoding.beam.Search)"


def _unmoved(original: Any, search: Search, logprobs: np.ndarray, step: int) -> list[int]:
    """The cache stays as it was, as far as there are beams."""
    return [min(place, len(logprobs) - 1) for place, _ in enumerate(original(search, logprobs, step))]


def _last_only(original: Any, search: Search, beam: Beam, token: int, logprob: float, step: int) -> Beam:
    return dataclasses.replace(original(search, beam, token, logprob, step), total=logprob)


def _candidates(change: Callable[[np.ndarray], np.ndarray]) -> Callable[..., list[int]]:
    """Takes a step with other log-probabilities [live, V]."""
    return lambda original, search, logprobs, step: original(search, change(logprobs), step)


def _own_best(logprobs: np.ndarray) -> np.ndarray:
    """From the second step on, each beam goes on with its likeliest token."""
    return logprobs if len(logprobs) == 1 else np.where(logprobs == logprobs.max(1, keepdims=True), logprobs, -1e9)


def _greedy(
    original: Any, config: GPT2Config, params: HostParams, prompts: Any, options: GenerateOptions
) -> list[list[int]]:
    if options.beams == 1:
        return original(config, params, prompts, options)
    single = GenerateOptions(options.max_new_tokens, temperature=0.0, stop_tokens=options.stop_tokens)
    return [row for row in original(config, params, prompts, single) for _ in range(options.samples)]


def _ended_dropped(original: Any, search: Search, logprobs: np.ndarray, step: int) -> list[int]:
    parents = original(search, logprobs, step)
    search.finished.sort(key=lambda found: found[1].finish_reason == "stop")
    return parents


def _stop_uncounted(original: Any, search: Search, beam: Beam, token: int, logprob: float, step: int) -> Beam:
    longer = original(search, beam, token, logprob, step)
    return dataclasses.replace(longer, total=beam.total) if longer.finish_reason == "stop" else longer


def _scored(length: Callable[[float, int], float]) -> dict[str, Callable[..., float]]:
    """Divides the sum by another number, `length(penalty, new tokens)`."""

    def score(original: Any, search: Search, total: float, length_of_beam: int) -> float:
        return total / length(search.options.length_penalty, length_of_beam)

    return {"_score": score}


def _wu(penalty: float, length: int) -> float:
    return ((5.0 + length) / 6.0) ** penalty


def _as_soon_as_full(original: Any, search: Search, step: int) -> bool:
    return len(search.finished) >= search.options.beams


def _worst_first(original: Any, search: Search) -> Any:
    return original(search)[::-1]


def _search(name: str, summary: str, spec: str, killed_by: str, **methods: Callable[..., Any]) -> Mutant:
    core = {f"gpt2spec.decoding.beam.Search.{method}": replacement for method, replacement in methods.items()}
    return Mutant(name, summary, spec, f"decode.generate.{killed_by}", core=core)


MUTANTS = [
    Mutant(
        "beams-ignored",
        "beams are greedy continuations",
        SEARCH,
        "decode.generate.beams",
        subject={"generate": _greedy},
    ),
    _search("beams-cache-unmoved", "a beam goes on from the cache of another", SEARCH, "beams", advance=_unmoved),
    _search(
        "beams-own-best", "each beam keeps its own best continuation", SEARCH, "beams", advance=_candidates(_own_best)
    ),
    _search("beams-last-token", "a beam is worth its last token's log-probability", SCORE, "beams", _longer=_last_only),
    _search(
        "beams-probabilities",
        "probabilities are added, not their logarithms",
        SCORE,
        "beams",
        advance=_candidates(np.exp),
    ),
    _search("beams-worst-first", "results come with the worst one first", SCORE, "beams", results=_worst_first),
    _search(
        "beams-length-ignored", "the length penalty is ignored", SCORE, "beams.length", **_scored(lambda a, n: 1.0)
    ),
    _search("beams-length-wu", "lengths count as (5 + n) / 6 (Wu et al. 2016)", SCORE, "beams.length", **_scored(_wu)),
    _search(
        "beams-stop-uncounted",
        "the stop token's log-probability is left out",
        SCORE,
        "beams.length",
        _longer=_stop_uncounted,
    ),
    _search(
        "beams-ended-dropped",
        "a beam that ended early is dropped for any that comes later",
        ENDS,
        "beams.length",
        advance=_ended_dropped,
    ),
    _search(
        "beams-early",
        "the search ends with as many ended beams as it follows",
        ENDS,
        "beams.length",
        _decided=_as_soon_as_full,
    ),
]
