"""Cached decoding against the whole pass, filters, and generation."""

from functools import partial

import numpy as np

from gpt2spec_conformance.case import Answer, Case, Nonconformance, told
from gpt2spec_conformance.cases.inputs import L2, token_batch
from gpt2spec_conformance.subject import GenerateOptions, Subject
from gpt2spec_conformance.weights import weight_set

ONE_BY_ONE = (1,) * 16
PREFILL = (9, 1, 1, 1, 1, 1, 1, 1)
PIECES = (3, 5, 1, 7)


def cases() -> list[Case]:
    """All of them."""
    return [
        *(
            Case(
                f"decode.cache.{name}",
                "decode",
                "cached_logits",
                f"logits through the cache, {words}, are those of the whole pass",
                partial(cached, lengths=lengths, widths=widths),
            )
            for name, words, lengths, widths in [
                ("steps", "token by token to the end of the context", (16, 16), ONE_BY_ONE),
                ("prefill", "a prompt in one pass and then token by token", (16, 16), PREFILL),
                ("pieces", "in pieces of several tokens", (16, 16), PIECES),
                ("ragged", "rows of different lengths", (16, 9), PREFILL),
            ]
        ),
        *(
            Case(
                f"decode.filter.{name}",
                "decode",
                "token_probabilities",
                words,
                partial(filtered, scores=scores, options=options),
                metric="whole",
                truth=partial(normalised, weights=right),
            )
            for name, words, scores, options, right in FILTERS
        ),
        Case("decode.generate.greedy", "decode", "generate", "greedy continuations", greedy, metric="exact"),
        Case(
            "decode.generate.sampled",
            "decode",
            "generate",
            "the same seed gives the same tokens: one uniform number a token, inverse CDF, a stream for each prompt",
            sampled,
            metric="exact",
        ),
        Case(
            "decode.generate.alone",
            "decode",
            "generate",
            "a prompt's continuation does not depend on what else is in the batch",
            alone,
            metric="exact",
            truth=lambda answer: {"batched": answer["alone"]},
        ),
        Case(
            "decode.generate.overflow",
            "decode",
            "generate",
            "a prompt that would pass the context with its new tokens is refused",
            overflow,
            metric="exact",
        ),
    ]


_P = np.log([0.5, 0.3, 0.15, 0.05]).tolist()
FILTERS = [
    ("top-p.crossing", "top-p keeps the token that crosses p", _P, (1.0, None, 0.9), [0.5, 0.3, 0.15, 0]),
    ("top-p.zero", "top-p of 0 keeps the likeliest token", _P, (1.0, None, 0.0), [1, 0, 0, 0]),
    ("top-p.one", "top-p of 1 keeps everything", _P, (1.0, None, 1.0), [0.5, 0.3, 0.15, 0.05]),
    ("top-k.two", "top-k keeps k tokens", _P, (1.0, 2, None), [0.5, 0.3, 0, 0]),
    (
        "top-k.ties",
        "of equal tokens the lowest ids are kept, k in all",
        [1.0, 1.0, 1.0, 0.0],
        (1.0, 2, None),
        [1, 1, 0, 0],
    ),
    ("top-k.more", "a k beyond the vocabulary keeps everything", _P, (1.0, 9, None), [0.5, 0.3, 0.15, 0.05]),
    ("temperature", "logits are divided by the temperature", _P, (0.5, None, None), [0.25, 0.09, 0.0225, 0.0025]),
    ("order", "temperature comes before top-p", _P, (2.0, None, 0.8), np.sqrt([0.5, 0.3, 0.15, 0]).tolist()),
    (
        "order.cold",
        "top-p counts the probabilities of the temperature",
        _P,
        (2.0, None, 0.75),
        np.sqrt([0.5, 0.3, 0.15, 0]).tolist(),
    ),
    ("both", "top-p counts the mass that top-k left", _P, (1.0, 2, 0.62), [0.5, 0, 0, 0]),
]


def cached(subject: Subject, lengths: tuple[int, ...], widths: tuple[int, ...]) -> Answer:
    """Logits through the cache; the oracle's are those of a whole pass."""
    tokens = token_batch(L2)[:, :-1].copy()
    params = weight_set("probe", L2)
    for row, length in enumerate(lengths):
        tokens[row, length:] = 0
    logits = np.asarray(subject.cached_logits(L2, params, tokens, lengths, widths), np.float64)
    return {"logits": logits}


PROMPTS = [[5, 9, 5], [17], [40, 2, 33, 8, 1, 60]]


def filtered(subject: Subject, scores: list[float], options: tuple[float, int | None, float | None]) -> Answer:
    """Probabilities of logits by temperature, top-k and top-p."""
    return {"probabilities": np.asarray(subject.token_probabilities(np.array(scores), *options), np.float64)}


def normalised(answer: Answer, weights: list[float]) -> Answer:
    """What the probabilities must be."""
    return {"probabilities": np.array(weights) / np.sum(weights)}


def greedy(subject: Subject) -> Answer:
    """Eight tokens after each prompt. The oracle's best and second-best logits are never close here."""
    return _tokens(subject.generate(L2, weight_set("probe", L2), PROMPTS, GenerateOptions()))


def sampled(subject: Subject) -> Answer:
    """Eight tokens after each prompt, by temperature, top-k and top-p."""
    options = GenerateOptions(temperature=0.9, top_k=20, top_p=0.95, seed=4)
    return _tokens(subject.generate(L2, weight_set("probe", L2), PROMPTS, options))


def alone(subject: Subject) -> Answer:
    """The longest prompt by itself and with the others."""
    params = weight_set("probe", L2)
    options = GenerateOptions(temperature=0.0)
    prompts = [PROMPTS[2], PROMPTS[0], PROMPTS[1]]
    return {
        "alone": np.array(subject.generate(L2, params, prompts[:1], options)[0]),
        "batched": np.array(subject.generate(L2, params, prompts, options)[0]),
    }


def overflow(subject: Subject) -> Answer:
    """Nine tokens and eight new ones, where sixteen is the most: any exception will do."""
    try:
        found = subject.generate(L2, weight_set("probe", L2), [[7] * 9], GenerateOptions(max_new_tokens=8))
    except Exception:
        return told()
    raise Nonconformance(f"9 tokens were continued by {len(found[0])}, beyond the {L2.n_ctx} positions there are")


def _tokens(rows: list[list[int]]) -> Answer:
    return {f"prompt {i}": np.array(row) for i, row in enumerate(rows)}
