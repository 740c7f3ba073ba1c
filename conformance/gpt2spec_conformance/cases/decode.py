"""Cached decoding against the whole pass, filters, and generation."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpt2spec.decoding.options import GenerateOptions
from gpt2spec_conformance.case import Answer, Nonconformance, Row, case, nothing_wrong
from gpt2spec_conformance.cases.inputs import L2, token_batch
from gpt2spec_conformance.subject import Subject
from gpt2spec_conformance.weights import weight_set

PREFILL = (9, 1, 1, 1, 1, 1, 1, 1)


@case(
    "decode.cache.{name}",
    level="decode",
    operation="cached_logits",
    each=[
        {"name": name, "how": how, "lengths": lengths, "widths": widths}
        for name, how, lengths, widths in (
            ("steps", "token by token to the end of the context", (16, 16), (1,) * 16),
            ("prefill", "a prompt in one pass and then token by token", (16, 16), PREFILL),
            ("pieces", "in pieces of several tokens", (16, 16), (3, 5, 1, 7)),
            ("ragged", "rows of different lengths", (16, 9), PREFILL),
        )
    ],
)
def cached(subject: Subject, lengths: tuple[int, ...], widths: tuple[int, ...]) -> Answer:
    """Logits through the cache, {how}, are those of the whole pass."""
    tokens = token_batch(L2)[:, :-1].copy()
    params = weight_set("probe", L2)
    for row, length in enumerate(lengths):
        tokens[row, length:] = 0
    logits = np.asarray(subject.cached_logits(L2, params, tokens, lengths, widths), np.float64)
    return {"logits": logits}


P = np.log([0.5, 0.3, 0.15, 0.05])
SCORES = np.array([2.0, 1.0, -1.0, -2.0])


def _filter(
    name: str,
    summary: str,
    weights: Sequence[float] | np.ndarray,
    scores: Sequence[float] | np.ndarray = P,
    text: Sequence[int] = (),
    **options: Any,
) -> Row:
    """A row of `filtered`: with these options, tokens have probabilities in proportion to `weights`."""
    options = {"scores": np.array(scores), "text": text, "options": GenerateOptions(**options)}
    return {"name": name, "summary": summary, "weights": np.array(weights), **options}


@case(
    "decode.filter.{name}",
    level="decode",
    operation="token_probabilities",
    metric="whole",
    truth=lambda answer, weights: {"probabilities": weights / np.sum(weights)},
    each=[
        _filter("top-p.crossing", "top-p keeps the token that crosses p", [0.5, 0.3, 0.15, 0], top_p=0.9),
        _filter("top-p.zero", "top-p of 0 keeps the likeliest token", [1, 0, 0, 0], top_p=0.0),
        _filter("top-p.one", "top-p of 1 keeps everything", [0.5, 0.3, 0.15, 0.05], top_p=1.0),
        _filter(
            "top-p.openai",
            "by OpenAI's rule top-p keeps tokens up to a running probability of p",
            [0.5, 0.3, 0, 0],
            top_p=0.9,
            top_p_rule="openai",
        ),
        _filter(
            "top-p.openai.one",
            "by OpenAI's rule the likeliest token always stays",
            [1, 0, 0, 0],
            top_p=0.4,
            top_p_rule="openai",
        ),
        _filter("top-k.two", "top-k keeps k tokens", [0.5, 0.3, 0, 0], top_k=2),
        _filter(
            "top-k.ties",
            "of equal tokens the lowest ids are kept, k in all",
            [1, 1, 0, 0],
            [1.0, 1.0, 1.0, 0.0],
            top_k=2,
        ),
        _filter("top-k.more", "a k beyond the vocabulary keeps everything", [0.5, 0.3, 0.15, 0.05], top_k=9),
        _filter(
            "min-p", "min-p keeps tokens at least this share as likely as the likeliest", [0.5, 0.3, 0, 0], min_p=0.4
        ),
        _filter(
            "min-p.order", "temperature comes before min-p", np.sqrt([0.5, 0.3, 0.15, 0]), temperature=2.0, min_p=0.5
        ),
        _filter(
            "min-p.one", "min-p of 1 keeps what is as likely as the likeliest", [1, 0, 1, 0], [3, 1, 3, 2], min_p=1.0
        ),
        _filter("temperature", "logits are divided by the temperature", [0.25, 0.09, 0.0225, 0.0025], temperature=0.5),
        _filter("order", "temperature comes before top-p", np.sqrt([0.5, 0.3, 0.15, 0]), temperature=2.0, top_p=0.8),
        _filter(
            "order.cold",
            "top-p counts the probabilities of the temperature",
            np.sqrt([0.5, 0.3, 0.15, 0]),
            temperature=2.0,
            top_p=0.75,
        ),
        _filter("both", "top-p counts the mass that top-k left", [0.5, 0, 0, 0], top_k=2, top_p=0.62),
        _filter(
            "penalty",
            "of tokens in the text, positive logits are divided by the penalty and negative ones multiplied",
            np.exp([1.0, 1.0, -2.0, -2.0]),
            SCORES,
            text=[0, 2],
            repetition_penalty=2.0,
        ),
        _filter(
            "penalty.once",
            "a token that stands in the text three times is penalised once",
            np.exp([1.0, 1.0, -2.0, -2.0]),
            SCORES,
            text=[2, 0, 2, 2, 0],
            repetition_penalty=2.0,
        ),
        _filter(
            "penalty.order",
            "the penalty comes before the filters",
            [0, 1, 0, 0],
            SCORES,
            text=[0, 2],
            repetition_penalty=2.5,
            top_k=1,
        ),
    ],
)
def filtered(subject: Subject, scores: np.ndarray, options: GenerateOptions, text: Sequence[int]) -> Answer:
    """{summary}.

    The answer has the probabilities [V] of the token after a text, from its logits by some options.
    """
    return {"probabilities": np.asarray(subject.token_probabilities(scores, options, text), np.float64)}


PROMPTS = [[33, 45, 57, 8, 18], [20], [21, 38, 26, 0, 18, 26, 59]]
STOP = (30,)
STOPPING = [[20], [30, 47, 43, 8, 34, 5], [25, 1, 16, 19, 10, 33, 6]]
"""Greedy continuations of these come to the stop token never, after four tokens and after three."""
REPEATING = [[20, 21, 26, 40, 33, 4, 45], [58, 37, 43, 52, 59, 32, 35], [12, 56, 24, 31, 19, 50]]
"""Other continuations with a penalty for the whole text, for new tokens alone, and without one."""
BRANCHING = [[18, 21, 55, 0, 11, 28, 54, 0], [51, 20, 28, 52, 6, 36, 2], [7]]
"""Their best beams are not the greedy ones, and change places on the way."""
ENDING = [[44, 7, 22, 7, 13, 12, 28], [54, 2, 19, 11], [4, 6, 55, 10, 38, 52, 17, 54]]
"""Among their best beams are some that end early and some that do not."""
GREEDY = GenerateOptions(max_new_tokens=8, temperature=0.0)
SAMPLED = GenerateOptions(max_new_tokens=8, temperature=0.9, top_k=20, top_p=0.95, seed=83)

generation_case = functools.partial(case, level="decode", operation="generate", metric="exact")


def continued(subject: Subject, prompts: list[list[int]], options: GenerateOptions) -> Answer:
    """The new tokens of each text; -1 after its end."""
    rows = subject.generate(L2, weight_set("probe", L2), prompts, options)
    filled = [[*row, *[-1] * (options.max_new_tokens - len(row))] for row in rows]
    return {f"text {i}": np.array(row) for i, row in enumerate(filled)}


@generation_case("decode.generate.greedy")
def greedy(subject: Subject) -> Answer:
    """Greedy continuations.

    The best logit is 0.4 above the second-best one; in `stop` and `penalty` it is 0.25.
    """
    return continued(subject, PROMPTS, GREEDY)


@generation_case("decode.generate.sampled")
def sampled(subject: Subject) -> Answer:
    """The same seed gives the same tokens: one uniform number a token, inverse CDF, a stream for each prompt.

    No running sum is within 1e-4 of a number or of top-p, here and in `samples`.
    """
    return continued(subject, PROMPTS, SAMPLED)


@generation_case("decode.generate.samples")
def samples(subject: Subject) -> Answer:
    """Samples of a prompt have numbers of their own, wherever it stands, and equal prompts go on with the next.

    The first prompt comes twice, with two samples each time.
    """
    return continued(subject, [PROMPTS[0], PROMPTS[2], PROMPTS[0]], dataclasses.replace(SAMPLED, samples=2))


@generation_case("decode.generate.stop")
def stop(subject: Subject) -> Answer:
    """A text ends before its first stop token; the others go on."""
    return continued(subject, STOPPING, dataclasses.replace(GREEDY, stop_tokens=STOP))


@generation_case("decode.generate.penalty")
def penalty(subject: Subject) -> Answer:
    """The repetition penalty is for tokens of the prompt and for new ones."""
    return continued(subject, REPEATING, dataclasses.replace(GREEDY, repetition_penalty=1.5))


@generation_case("decode.generate.beams")
def beams(subject: Subject) -> Answer:
    """The likeliest sequences by beam search, in order.

    Sums that are compared differ by 0.01 or more, here and in `beams_of_lengths`.
    """
    return continued(subject, BRANCHING, GenerateOptions(max_new_tokens=6, beams=3, samples=3))


@generation_case("decode.generate.beams.length")
def beams_of_lengths(subject: Subject) -> Answer:
    """Beams of different lengths by the mean of their log-probabilities, the stop token's included."""
    options = GenerateOptions(max_new_tokens=6, beams=3, samples=3, length_penalty=1.0, stop_tokens=STOP)
    return continued(subject, ENDING, options)


@generation_case("decode.generate.alone", truth=lambda answer: {"batched": answer["alone"]})
def alone(subject: Subject) -> Answer:
    """A prompt's continuation does not depend on what else is in the batch."""
    prompts = [PROMPTS[2], PROMPTS[0], PROMPTS[1]]
    return {
        "alone": continued(subject, prompts[:1], GREEDY)["text 0"],
        "batched": continued(subject, prompts, GREEDY)["text 0"],
    }


@generation_case("decode.generate.overflow")
def overflow(subject: Subject) -> Answer:
    """A prompt that would pass the context with its new tokens is refused.

    Nine tokens and eight new ones are too many where sixteen is the most: any exception will do.
    """
    try:
        found = subject.generate(L2, weight_set("probe", L2), [[7] * 9], GREEDY)
    except Exception:
        return nothing_wrong()
    raise Nonconformance(f"9 tokens were continued by {len(found[0])}, beyond the {L2.n_ctx} positions there are")
