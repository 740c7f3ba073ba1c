"""Mistakes in decoding: the key/value cache, sampling, and what the loop does with the tokens."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpt2spec.backend import Backend
from gpt2spec.config import GPT2Config
from gpt2spec.decoding.options import GenerateOptions
from gpt2spec.decoding.sequence import Choice, GrowingText, Piece
from gpt2spec.ops import Tensor, TensorOps
from gpt2spec.parameters import HostParams
from gpt2spec.tree import Tree
from gpt2spec_conformance.mutants.attention import spelled
from gpt2spec_conformance.mutants.fault import Mutant
from gpt2spec_conformance.mutants.filters import PENALTY

CACHE = "row b's new keys and values go to slots start[b], ... and see what is before them (model.layers)"
POSITIONS = "row b's positions go on from start[b] (model.transformer)"
ROWS = "row i becomes what row rows[i] was, keys and values of every layer (TensorOps.select_rows)"
CAPACITY = "prompt and new tokens beyond n_ctx are an error before anything runs (decoding.generator.check_prompts)"
SAMPLING = (
    "a uniform number a token by the inverse CDF, a stream for each prompt and sample (decoding.sampling, sequence)"
)
ENDS = "a text ends before its first stop token (decoding.sequence.GrowingText)"
BY_STEPS, PREFILL, IN_PIECES, RAGGED, SELECT = (
    f"decode.cache.{name}" for name in ("steps", "prefill", "pieces", "ragged", "select")
)
Start = Tensor | None


def _slot_later(ops: TensorOps, cache: Tensor, new: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    last = cache.shape[2] - new.shape[2]
    return new, ops.where(start < last, start + 1, start)


def _slot_of_first_row(ops: TensorOps, cache: Tensor, new: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    return new, 0 * start + start[:1]


def _rounded(ops: TensorOps, cache: Tensor, new: Tensor, start: Start) -> tuple[Tensor, Start]:
    return ops.astype(ops.astype(new, "float16"), ops.dtype), start


def _last_token_only(ops: TensorOps, cache: Tensor, new: Tensor, start: Start) -> tuple[Tensor, Start]:
    return ops.concat([0.0 * new[:, :, :-1], new[:, :, -1:]], 2), start


def _prefill_later(original: Any, ops: TensorOps, cache: Tensor, new: Tensor, start: Start) -> Tensor:
    if start is None and new.shape[2] < cache.shape[2]:
        return ops.concat([cache[:, :, :1], new, cache[:, :, new.shape[2] + 1 :]], 2)
    return original(cache, new, start)


def _last_column(original: Any, ops: TensorOps, *args: Any) -> Any:
    """Takes the last column of the padded width for the place of each row's last token."""
    *model, tokens, last = args if len(args) == 5 else (*args, None)
    return original(ops, *model, tokens, None if last is None else 0 * last + tokens.shape[1] - 1)


def _restarting(original: Any, ops: TensorOps, params: Tree, tokens: Tensor, positions: Tensor) -> Tensor:
    return original(ops, params, tokens, ops.arange(tokens.shape[1]))


def _longest(ops: TensorOps, rows: Tensor) -> Tensor:
    return 0 * rows + ops.max(rows, 0, keepdims=True)


def _shared_position(original: Any, ops: TensorOps, params: Tree, tokens: Tensor, positions: Tensor) -> Tensor:
    return original(ops, params, tokens, positions if len(positions.shape) == 1 else _longest(ops, positions))


def _one_position(original: Any, ops: TensorOps, params: Tree, tokens: Tensor, positions: Tensor) -> Tensor:
    first = positions if len(positions.shape) == 1 else 0 * positions + positions[:, :1]
    return original(ops, params, tokens, first)


def _padding_visible(original: Any, ops: TensorOps, q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
    start = settings["start"]
    return original(q, k, v, **{**settings, "start": None if start is None else _longest(ops, start)})


def _heads_for_rows(ops: TensorOps, right: list[Tree], unmoved: list[Tree]) -> list[Tree]:
    backwards = unmoved[0]["k"].shape[1] - 1 - ops.arange(unmoved[0]["k"].shape[1])
    return [{name: ops.take(c, backwards, 1) for name, c in layer.items()} for layer in unmoved]


def _unchecked(original: Any, config: GPT2Config, prompts: Any, *args: Any) -> Any:
    return [list(prompt) for prompt in prompts]


def _one_stream(original: Any, seed: int, purpose: str, *index: int, count: int) -> np.ndarray:
    return original(seed, purpose, 0, count=count)


def _unseeded(original: Any, seed: int, purpose: str, *index: int, count: int) -> np.ndarray:
    return original(0, purpose, *index, count=count)


def _from_likeliest(original: Any, probabilities: np.ndarray, uniform: float) -> int:
    order = np.argsort(-probabilities, kind="stable")
    return int(order[original(probabilities[order], uniform)])


def _from_the_end(original: Any, probabilities: np.ndarray, uniform: float) -> int:
    return original(probabilities, 1.0 - 2.0**-53 - uniform)


def _least_likely(original: Any, logits: np.ndarray, options: GenerateOptions, uniform: float) -> int:
    return original(-logits if options.temperature == 0.0 else logits, options, uniform)


def _one_for_all_samples(original: Any, seed: int, purpose: str, *index: int, count: int) -> np.ndarray:
    return original(seed, purpose, *index[1:], count=count)


def _new_tokens_only(
    original: Any, backend: Backend, texts: Sequence[GrowingText], options: GenerateOptions, streaming: bool
) -> Any:
    """Shows the chooser the texts without their prompts."""
    return original(backend, [_WithoutPrompt(text) for text in texts], options, streaming)


class _WithoutPrompt:
    def __init__(self, text: GrowingText) -> None:
        self._text, self._prompt, self.draws = text, len(text.ids), text.draws

    @property
    def ids(self) -> list[int]:
        return self._text.ids[self._prompt :]


def _stop_kept(original: Any, text: GrowingText, choice: Choice) -> Piece:
    piece = original(text, choice)
    return dataclasses.replace(piece, choice=choice)


def _without_stop(
    original: Any, config: GPT2Config, params: HostParams, prompts: Any, options: GenerateOptions
) -> list[list[int]]:
    return original(config, params, prompts, dataclasses.replace(options, stop_tokens=()))


def _attention(name: str, summary: str, killed_by: str, sees: Callable[[Tensor, Tensor], Tensor]) -> Mutant:
    replacement = spelled(sees=sees, cached_only=True)
    return Mutant(name, summary, CACHE, killed_by, ops={"causal_attention": replacement})


def _cache(
    name: str,
    summary: str,
    killed_by: str,
    change: Callable[[TensorOps, Tensor, Tensor, Any], tuple[Tensor, Start]],
    steps_only: bool = False,
) -> Mutant:
    """Writes other values to other slots, `change(ops, cache, new, start)`, always or with `start` only."""

    def cache_write(original: Any, ops: TensorOps, cache: Tensor, new: Tensor, start: Start) -> Tensor:
        if start is None and steps_only:
            return original(cache, new, start)
        return original(cache, *change(ops, cache, new, start))

    return Mutant(name, summary, CACHE, killed_by, ops={"cache_write": cache_write})


def _select(name: str, summary: str, change: Callable[[Any, list[Tree], list[Tree]], list[Tree]]) -> Mutant:
    """Replaces `select_rows` by `change(ops, right, unmoved)`, given the right cache and one with unmoved rows."""

    def select_rows(original: Any, ops: TensorOps, cache: list[Tree], rows: Tensor) -> list[Tree]:
        there = cache[0]["k"].shape[0]
        place = ops.arange(rows.shape[0])
        unmoved = original(cache, ops.where(place < there, place, there - 1))
        return change(ops, original(cache, rows), unmoved)

    return Mutant(name, summary, ROWS, SELECT, ops={"select_rows": select_rows})


def _embed(name: str, summary: str, killed_by: str, replacement: Callable[..., Tensor]) -> Mutant:
    return Mutant(name, summary, POSITIONS, killed_by, core={"gpt2spec.model.embed": replacement})


def _sample(name: str, summary: str, function: str, replacement: Callable[..., Any], case: str = "sampled") -> Mutant:
    return Mutant(name, summary, SAMPLING, f"decode.generate.{case}", core={f"gpt2spec.{function}": replacement})


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
    _cache("cache-slot-later", "keys and values go one slot further", BY_STEPS, _slot_later, steps_only=True),
    _cache(
        "cache-slot-shared",
        "all rows are written where the first one stands",
        "decode.generate.greedy",
        _slot_of_first_row,
        steps_only=True,
    ),
    _cache("cache-rounded", "the cache is kept in float16", BY_STEPS, _rounded),
    _cache("cache-last-only", "of a piece only the last token is kept", IN_PIECES, _last_token_only),
    Mutant(
        "prefill-slot-later",
        "a prompt's keys and values go one slot further",
        CACHE,
        PREFILL,
        ops={"cache_write": _prefill_later},
    ),
    Mutant(
        "prefill-padding-read",
        "the first new token is chosen after the padding of a short prompt, not after its last token",
        CACHE,
        "decode.generate.greedy",
        core={"gpt2spec.model.cached_forward": _last_column},
    ),
    _select("select-ignored", "rows of the cache stay where they were", lambda ops, right, unmoved: unmoved),
    _select(
        "select-keys-only",
        "keys are put in the new order, values are not",
        lambda ops, right, unmoved: [{"k": r["k"], "v": u["v"]} for r, u in zip(right, unmoved, strict=True)],
    ),
    _select(
        "select-first-layer-only",
        "only the first layer's rows are put in the new order",
        lambda ops, right, unmoved: [*right[:1], *unmoved[1:]],
    ),
    _select("select-heads", "heads are put in another order, not rows", _heads_for_rows),
    Mutant(
        "overflow-unchecked",
        "a text that passes the context forgets its beginning, though nobody asked for that",
        CAPACITY,
        "decode.generate.overflow",
        core={"gpt2spec.decoding.generator.check_prompts": _unchecked},
    ),
    _sample("sampling-one-stream", "all prompts draw the same numbers", "random.uniforms", _one_stream),
    _sample("sampling-seed-ignored", "the seed is ignored", "random.uniforms", _unseeded),
    _sample(
        "sampling-from-likeliest",
        "the inverse CDF runs from the likeliest token, not by id",
        "decoding.sampling.inverse_cdf",
        _from_likeliest,
    ),
    _sample("sampling-from-the-end", "the inverse CDF of 1 - u", "decoding.sampling.inverse_cdf", _from_the_end),
    _sample(
        "greedy-least-likely", "greedy takes the smallest logit", "decoding.sampling.choose", _least_likely, "greedy"
    ),
    _sample(
        "samples-alike",
        "all samples of a prompt draw the same numbers",
        "random.uniforms",
        _one_for_all_samples,
        "samples",
    ),
    Mutant(
        "penalty-new-only",
        "the repetition penalty is for new tokens, not for the prompt's",
        PENALTY,
        "decode.generate.penalty",
        core={"gpt2spec.decoding.chooser.chooser": _new_tokens_only},
    ),
    Mutant(
        "stop-kept",
        "the stop token is part of the text",
        ENDS,
        "decode.generate.stop",
        core={"gpt2spec.decoding.sequence.GrowingText.add": _stop_kept},
    ),
    Mutant(
        "stop-ignored",
        "texts go on after a stop token",
        ENDS,
        "decode.generate.stop",
        subject={"generate": _without_stop},
    ),
]
