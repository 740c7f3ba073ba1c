"""Mistakes in decoding: the key/value cache, filters, sampling."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from gpt2spec.config import GPT2Config
from gpt2spec.decoding.sampling import SamplingOptions
from gpt2spec.ops import Tensor, TensorOps
from gpt2spec.tree import Tree
from gpt2spec_conformance.mutants.attention import spelled
from gpt2spec_conformance.mutants.fault import Mutant

CACHE = "row b's new keys and values go to slots start[b], ... and see what is before them (model.attention)"
POSITIONS = "row b's positions go on from start[b] (model.embed)"
CAPACITY = "prompt and new tokens beyond n_ctx are an error before anything runs (decoding.loop.check_prompts)"
FILTERS = "temperature, top-k, top-p in this order; the crossing token is kept (sampling.filtered_probabilities)"
SAMPLING = "one uniform number a token by the inverse CDF, a stream for each prompt (decoding.sampling, loop)"
BY_STEPS, IN_PIECES, RAGGED = "decode.cache.steps", "decode.cache.pieces", "decode.cache.ragged"


def _write(
    change: Callable[[TensorOps, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
) -> Callable[..., Tensor]:
    """`cache_write` of other values at other slots: `change(ops, cache, new, start)`."""

    def cache_write(original: Any, ops: TensorOps, cache: Tensor, new: Tensor, start: Tensor) -> Tensor:
        return original(cache, *change(ops, cache, new, start))

    return cache_write


def _slot_later(ops: TensorOps, cache: Tensor, new: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    last = cache.shape[2] - new.shape[2]
    return new, ops.where(start < last, start + 1, start)


def _slot_of_first_row(ops: TensorOps, cache: Tensor, new: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    return new, 0 * start + start[:1]


def _rounded(ops: TensorOps, cache: Tensor, new: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    return ops.astype(ops.astype(new, "float16"), ops.dtype), start


def _last_token_only(ops: TensorOps, cache: Tensor, new: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    return ops.concat([0.0 * new[:, :, :-1], new[:, :, -1:]], 2), start


def _restarting(original: Any, ops: TensorOps, params: Tree, tokens: Tensor, start: Tensor | None = None) -> Tensor:
    return original(ops, params, tokens)


def _longest(ops: TensorOps, start: Tensor) -> Tensor:
    return 0 * start + ops.max(start, 0, keepdims=True)


def _shared_position(
    original: Any, ops: TensorOps, params: Tree, tokens: Tensor, start: Tensor | None = None
) -> Tensor:
    return original(ops, params, tokens, None if start is None else _longest(ops, start))


def _one_position(original: Any, ops: TensorOps, params: Tree, tokens: Tensor, start: Tensor | None = None) -> Tensor:
    if start is None:
        return original(ops, params, tokens)
    columns = [original(ops, params, tokens[:, i : i + 1], start) for i in range(tokens.shape[1])]
    return ops.concat(columns, 1)


def _padding_visible(original: Any, ops: TensorOps, q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
    start = settings["start"]
    return original(q, k, v, **{**settings, "start": None if start is None else _longest(ops, start)})


def _clamped(original: Any, ops: TensorOps, params: Tree, tokens: Tensor, start: Tensor | None = None) -> Tensor:
    last = params["wpe"]["weight"].shape[0] - tokens.shape[1]
    return original(ops, params, tokens, None if start is None else ops.where(start < last, start, last))


def _unchecked(original: Any, config: GPT2Config, prompts: Any, max_new_tokens: int) -> None:
    return None


def _filtered(change: Callable[[Any, np.ndarray, SamplingOptions], np.ndarray]) -> dict[str, Callable[..., np.ndarray]]:
    """Probabilities [V] by `change(right, logits, options)`, brought to a sum of 1."""

    def filtered_probabilities(original: Any, logits: np.ndarray, options: SamplingOptions) -> np.ndarray:
        probabilities = change(original, logits, options)
        return probabilities / probabilities.sum()

    return {"gpt2spec.decoding.sampling.filtered_probabilities": filtered_probabilities}


def _likeliest(probabilities: np.ndarray, count: int) -> np.ndarray:
    """Probabilities [V] of the `count` likeliest tokens, at least one, and 0 for the others."""
    kept = np.argsort(-probabilities, kind="stable")[: max(1, count)]
    return np.where(np.isin(np.arange(probabilities.size), kept), probabilities, 0.0)


def _running(probabilities: np.ndarray) -> np.ndarray:
    return np.cumsum(np.sort(probabilities)[::-1])


def _crossing_dropped(right: Any, logits: np.ndarray, options: SamplingOptions) -> np.ndarray:
    p = right(logits, dataclasses.replace(options, top_p=None))
    return p if options.top_p is None else _likeliest(p, int(np.sum(_running(p) <= options.top_p + 1e-12)))


def _one_more(right: Any, logits: np.ndarray, options: SamplingOptions) -> np.ndarray:
    p = right(logits, dataclasses.replace(options, top_p=None))
    return p if options.top_p is None else _likeliest(p, 2 + int(np.sum(_running(p) < options.top_p)))


def _temperature_last(right: Any, logits: np.ndarray, options: SamplingOptions) -> np.ndarray:
    return right(logits, dataclasses.replace(options, temperature=1.0)) ** (1.0 / options.temperature)


def _temperature_inverted(right: Any, logits: np.ndarray, options: SamplingOptions) -> np.ndarray:
    return right(logits, dataclasses.replace(options, temperature=1.0 / options.temperature))


def _temperature_ignored(right: Any, logits: np.ndarray, options: SamplingOptions) -> np.ndarray:
    return right(logits, dataclasses.replace(options, temperature=1.0))


def _ties_kept(right: Any, logits: np.ndarray, options: SamplingOptions) -> np.ndarray:
    if options.top_k is None or options.top_k >= logits.size:
        return right(logits, options)
    least = np.sort(logits)[-options.top_k]
    return right(np.where(logits < least, -np.inf, logits), dataclasses.replace(options, top_k=None))


def _last_of_ties(right: Any, logits: np.ndarray, options: SamplingOptions) -> np.ndarray:
    return right(logits[::-1], options)[::-1]


def _one_too_many(right: Any, logits: np.ndarray, options: SamplingOptions) -> np.ndarray:
    return right(logits, dataclasses.replace(options, top_k=options.top_k and options.top_k + 1))


def _top_k_last(right: Any, logits: np.ndarray, options: SamplingOptions) -> np.ndarray:
    p = right(logits, dataclasses.replace(options, top_k=None))
    return p if options.top_k is None else _likeliest(p, options.top_k)


def _dropped_mass(right: Any, logits: np.ndarray, options: SamplingOptions) -> np.ndarray:
    """Dropped tokens get a logit of 0, not -inf."""
    p = right(logits, options)
    return np.exp(np.where(p > 0.0, (logits - logits.max()) / options.temperature, -logits.max()))


def _one_stream(original: Any, seed: int, purpose: str, *index: int, count: int) -> np.ndarray:
    return original(seed, purpose, 0, count=count)


def _unseeded(original: Any, seed: int, purpose: str, *index: int, count: int) -> np.ndarray:
    return original(0, purpose, *index, count=count)


def _from_likeliest(original: Any, probabilities: np.ndarray, uniform: float) -> int:
    order = np.argsort(-probabilities, kind="stable")
    return int(order[original(probabilities[order], uniform)])


def _from_the_end(original: Any, probabilities: np.ndarray, uniform: float) -> int:
    return original(probabilities, 1.0 - 2.0**-53 - uniform)


def _least_likely(original: Any, logits: np.ndarray, options: SamplingOptions, uniform: float) -> int:
    return original(-logits if options.temperature == 0.0 else logits, options, uniform)


def _attention(name: str, summary: str, killed_by: str, sees: Callable[[Tensor, Tensor], Tensor]) -> Mutant:
    replacement = spelled(sees=sees, cached_only=True)
    return Mutant(name, summary, CACHE, killed_by, ops={"causal_attention": replacement})


def _cache(name: str, summary: str, killed_by: str, change: Any) -> Mutant:
    return Mutant(name, summary, CACHE, killed_by, ops={"cache_write": _write(change)})


def _embed(name: str, summary: str, killed_by: str, replacement: Callable[..., Tensor]) -> Mutant:
    return Mutant(name, summary, POSITIONS, killed_by, core={"gpt2spec.model.embed": replacement})


def _filter(name: str, summary: str, killed_by: str, change: Any) -> Mutant:
    return Mutant(name, summary, FILTERS, f"decode.filter.{killed_by}", core=_filtered(change))


def _sample(name: str, summary: str, function: str, replacement: Callable[..., Any], case: str = "sampled") -> Mutant:
    return Mutant(
        name, summary, SAMPLING, f"decode.generate.{case}", core={f"gpt2spec.decoding.{function}": replacement}
    )


MUTANTS = [
    _embed("cache-positions-restart", "positions start at 0 with every piece", BY_STEPS, _restarting),
    _embed("cache-positions-shared", "all rows have the longest row's positions", RAGGED, _shared_position),
    _embed("cache-positions-repeated", "all tokens of a piece have the first one's position", IN_PIECES, _one_position),
    _attention(
        "cache-stale-visible",
        "slots that were not written yet are visible",
        BY_STEPS,
        lambda key, query: key >= 0 * query,
    ),
    _attention(
        "cache-piece-visible",
        "the tokens of a piece see each other whatever their order",
        IN_PIECES,
        lambda key, query: key <= query[:, :, -1:],
    ),
    _attention(
        "cache-mask-from-zero",
        "the mask forgets how far the row is: a piece sees what its own length allows",
        BY_STEPS,
        lambda key, query: key <= query - query[:, :, :1],
    ),
    Mutant(
        "cache-padding-visible",
        "rows of different lengths see up to where the longest stands, the others' padding",
        CACHE,
        RAGGED,
        ops={"causal_attention": _padding_visible},
    ),
    _cache("cache-slot-later", "keys and values go one slot further", BY_STEPS, _slot_later),
    _cache(
        "cache-slot-shared",
        "all rows are written where the first one stands",
        "decode.generate.greedy",
        _slot_of_first_row,
    ),
    _cache("cache-rounded", "the cache is kept in float16", BY_STEPS, _rounded),
    _cache("cache-last-only", "of a piece only the last token is kept", IN_PIECES, _last_token_only),
    Mutant(
        "cache-clamped",
        "beyond the context the last position is used again and again",
        CAPACITY,
        "decode.generate.overflow",
        core={"gpt2spec.decoding.loop.check_prompts": _unchecked, "gpt2spec.model.embed": _clamped},
    ),
    _filter("top-p-crossing-dropped", "top-p drops the token that crosses p", "top-p.crossing", _crossing_dropped),
    _filter("top-p-one-more", "top-p keeps one token too many", "top-p.crossing", _one_more),
    _filter("top-p-before-top-k", "top-p comes before top-k", "both", _top_k_last),
    _filter("top-k-ties", "top-k keeps everything that equals the k-th", "top-k.ties", _ties_kept),
    _filter("top-k-last-of-ties", "of equal tokens the highest ids are kept", "top-k.ties", _last_of_ties),
    _filter("top-k-one-more", "top-k keeps one token too many", "top-k.two", _one_too_many),
    _filter("filter-zero-logit", "dropped tokens get a logit of 0, not -inf", "top-k.two", _dropped_mass),
    _filter("temperature-last", "the temperature comes after the filters", "order.cold", _temperature_last),
    _filter("temperature-inverted", "logits are multiplied by the temperature", "temperature", _temperature_inverted),
    _filter("temperature-ignored", "the temperature is ignored", "temperature", _temperature_ignored),
    _sample("sampling-one-stream", "all prompts draw the same numbers", "loop.uniforms", _one_stream),
    _sample("sampling-seed-ignored", "the seed is ignored", "loop.uniforms", _unseeded),
    _sample(
        "sampling-from-likeliest",
        "the inverse CDF runs from the likeliest token, not by id",
        "sampling.inverse_cdf",
        _from_likeliest,
    ),
    _sample("sampling-from-the-end", "the inverse CDF of 1 - u", "sampling.inverse_cdf", _from_the_end),
    _sample("greedy-least-likely", "greedy takes the smallest logit", "loop.choose", _least_likely, "greedy"),
]
