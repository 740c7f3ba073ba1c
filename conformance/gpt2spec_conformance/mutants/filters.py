"""Mistakes on the way from logits to probabilities: temperature, filters, the repetition penalty."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np

from gpt2spec.decoding.options import GenerateOptions
from gpt2spec_conformance.mutants.fault import Mutant

FILTERS = "temperature, top-k, top-p, min-p in this order; the crossing token is kept (sampling.filtered_probabilities)"
PENALTY = "logits of tokens in the text, over the penalty above 0 and times it below, come first (sampling.penalised)"


def _likeliest(probabilities: np.ndarray, count: int) -> np.ndarray:
    """Probabilities [V] of the `count` likeliest tokens, at least one, and 0 for the others."""
    kept = np.argsort(-probabilities, kind="stable")[: max(1, count)]
    return np.where(np.isin(np.arange(probabilities.size), kept), probabilities, 0.0)


def _running(probabilities: np.ndarray) -> np.ndarray:
    return np.cumsum(np.sort(probabilities)[::-1])


def _crossing_dropped(right: Any, logits: np.ndarray, options: GenerateOptions) -> np.ndarray:
    p = right(logits, dataclasses.replace(options, top_p=None))
    return p if options.top_p is None else _likeliest(p, int(np.sum(_running(p) <= options.top_p + 1e-12)))


def _one_more(right: Any, logits: np.ndarray, options: GenerateOptions) -> np.ndarray:
    p = right(logits, dataclasses.replace(options, top_p=None))
    return p if options.top_p is None else _likeliest(p, 2 + int(np.sum(_running(p) < options.top_p)))


def _temperature_last(right: Any, logits: np.ndarray, options: GenerateOptions) -> np.ndarray:
    return right(logits, dataclasses.replace(options, temperature=1.0)) ** (1.0 / options.temperature)


def _temperature_inverted(right: Any, logits: np.ndarray, options: GenerateOptions) -> np.ndarray:
    return right(logits, dataclasses.replace(options, temperature=1.0 / options.temperature))


def _temperature_ignored(right: Any, logits: np.ndarray, options: GenerateOptions) -> np.ndarray:
    return right(logits, dataclasses.replace(options, temperature=1.0))


def _ties_kept(right: Any, logits: np.ndarray, options: GenerateOptions) -> np.ndarray:
    if options.top_k is None or options.top_k >= logits.size:
        return right(logits, options)
    least = np.sort(logits)[-options.top_k]
    return right(np.where(logits < least, -np.inf, logits), dataclasses.replace(options, top_k=None))


def _last_of_ties(right: Any, logits: np.ndarray, options: GenerateOptions) -> np.ndarray:
    return right(logits[::-1], options)[::-1]


def _one_too_many(right: Any, logits: np.ndarray, options: GenerateOptions) -> np.ndarray:
    return right(logits, dataclasses.replace(options, top_k=options.top_k and options.top_k + 1))


def _top_k_last(right: Any, logits: np.ndarray, options: GenerateOptions) -> np.ndarray:
    p = right(logits, dataclasses.replace(options, top_k=None))
    return p if options.top_k is None else _likeliest(p, options.top_k)


def _other_rule(right: Any, logits: np.ndarray, options: GenerateOptions) -> np.ndarray:
    rule: Literal["reach", "openai"] = "reach" if options.top_p_rule == "openai" else "openai"
    return right(logits, dataclasses.replace(options, top_p_rule=rule))


def _none_left(right: Any, logits: np.ndarray, options: GenerateOptions) -> np.ndarray:
    """Applies no filter where nothing is within p."""
    p = right(logits, dataclasses.replace(options, top_p=None))
    within = options.top_p_rule != "openai" or options.top_p is None or p.max() <= options.top_p
    return right(logits, options) if within else p


def _min_p(share: Callable[[np.ndarray, float], np.ndarray]) -> Any:
    """Lets min-p keep the tokens where `share(probabilities, min_p)` holds, and always the likeliest."""

    def change(right: Any, logits: np.ndarray, options: GenerateOptions) -> np.ndarray:
        p = right(logits, dataclasses.replace(options, min_p=None))
        return p if options.min_p is None else np.where(share(p, options.min_p) | (p == p.max()), p, 0.0)

    return change


def _one_likeliest(right: Any, logits: np.ndarray, options: GenerateOptions) -> np.ndarray:
    return right(logits, options if options.min_p != 1.0 else dataclasses.replace(options, min_p=None, top_k=1))


def _min_p_first(right: Any, logits: np.ndarray, options: GenerateOptions) -> np.ndarray:
    """Filters by the probabilities without a temperature."""
    if options.min_p is None:
        return right(logits, options)
    kept = right(logits, GenerateOptions(min_p=options.min_p)) > 0.0
    return right(np.where(kept, logits, -np.inf), dataclasses.replace(options, min_p=None))


def _dropped_mass(right: Any, logits: np.ndarray, options: GenerateOptions) -> np.ndarray:
    """Gives dropped tokens a logit of 0, not -inf."""
    p = right(logits, options)
    return np.exp(np.where(p > 0.0, (logits - logits.max()) / options.temperature, -logits.max()))


def _each_time(original: Any, logits: np.ndarray, seen: Iterable[int], penalty: float) -> np.ndarray:
    for token in seen:
        logits = original(logits, [token], penalty)
    return logits


def _penalty_last(original: Any, logits: np.ndarray, options: GenerateOptions, text: Sequence[int]) -> np.ndarray:
    kept = original(logits, dataclasses.replace(options, repetition_penalty=1.0), text) > 0.0
    penalty = GenerateOptions(temperature=options.temperature, repetition_penalty=options.repetition_penalty)
    return original(np.where(kept, logits, -np.inf), penalty, text)


def _filter(
    name: str, summary: str, killed_by: str, change: Callable[[Any, np.ndarray, GenerateOptions], np.ndarray]
) -> Mutant:
    """Replaces probabilities [V] by `change(right, logits, options)`, brought to a sum of 1."""

    def filtered_probabilities(original: Any, logits: np.ndarray, options: GenerateOptions) -> np.ndarray:
        probabilities = change(original, logits, options)
        return probabilities / probabilities.sum()

    core = {"gpt2spec.decoding.sampling.filtered_probabilities": filtered_probabilities}
    return Mutant(name, summary, FILTERS, f"decode.filter.{killed_by}", core=core)


def _penalty(name: str, summary: str, change: Callable[[np.ndarray, float], np.ndarray]) -> Mutant:
    """Changes the logits of the tokens in the text to `change(logits, penalty)`."""

    def penalised(original: Any, logits: np.ndarray, seen: Iterable[int], penalty: float) -> np.ndarray:
        if penalty == 1.0:
            return logits
        logits, seen = logits.astype(np.float64), list(seen)
        logits[seen] = change(logits[seen], penalty)
        return logits

    core = {"gpt2spec.decoding.sampling.penalised": penalised}
    return Mutant(name, summary, PENALTY, "decode.filter.penalty", core=core)


MUTANTS = [
    _filter("top-p-crossing-dropped", "top-p drops the token that crosses p", "top-p.crossing", _crossing_dropped),
    _filter("top-p-one-more", "top-p keeps one token too many", "top-p.crossing", _one_more),
    _filter(
        "top-p-rules-exchanged",
        "OpenAI's rule of top-p for the usual one, and the other way",
        "top-p.openai",
        _other_rule,
    ),
    _filter(
        "top-p-none-left",
        "by OpenAI's rule, no filter where even the likeliest passes p",
        "top-p.openai.one",
        _none_left,
    ),
    _filter("top-p-before-top-k", "top-p comes before top-k", "both", _top_k_last),
    _filter("top-k-ties", "top-k keeps everything that equals the k-th", "top-k.ties", _ties_kept),
    _filter("top-k-last-of-ties", "of equal tokens the highest ids are kept", "top-k.ties", _last_of_ties),
    _filter("top-k-one-more", "top-k keeps one token too many", "top-k.two", _one_too_many),
    _filter("filter-zero-logit", "dropped tokens get a logit of 0, not -inf", "top-k.two", _dropped_mass),
    _filter("temperature-last", "the temperature comes after the filters", "order.cold", _temperature_last),
    _filter("temperature-inverted", "logits are multiplied by the temperature", "temperature", _temperature_inverted),
    _filter("temperature-ignored", "the temperature is ignored", "temperature", _temperature_ignored),
    _filter(
        "min-p-absolute", "min-p is a probability, not a share of the largest", "min-p", _min_p(lambda p, m: p >= m)
    ),
    _filter("min-p-before-temperature", "min-p comes before the temperature", "min-p.order", _min_p_first),
    _filter(
        "min-p-one-likeliest",
        "of several likeliest tokens min-p of 1 keeps the first only",
        "min-p.one",
        _one_likeliest,
    ),
    _penalty("penalty-divides-all", "negative logits are divided by the penalty, too", lambda x, penalty: x / penalty),
    _penalty(
        "penalty-inverted",
        "positive logits are multiplied and negative ones divided",
        lambda x, penalty: np.where(x > 0.0, x * penalty, x / penalty),
    ),
    _penalty("penalty-subtracted", "the penalty is subtracted", lambda x, penalty: x - penalty),
    _penalty("penalty-ignored", "there is no penalty", lambda x, penalty: x),
    Mutant(
        "penalty-each-time",
        "a token is penalised as often as it stands in the text",
        PENALTY,
        "decode.filter.penalty.once",
        core={"gpt2spec.decoding.sampling.penalised": _each_time},
    ),
    Mutant(
        "penalty-last",
        "the penalty comes after the filters",
        PENALTY,
        "decode.filter.penalty.order",
        subject={"token_probabilities": _penalty_last},
    ),
]
