"""These cases ask what decoding does on the device: reorder a cache, and choose tokens as the host does."""

import dataclasses
import functools
from typing import Any
from unittest import mock

import numpy as np

from gpt2spec.decoding import on_device, sampling
from gpt2spec.decoding.cache import Rows
from gpt2spec.decoding.options import GenerateOptions
from gpt2spec.random import generator
from gpt2spec_conformance.case import Answer, case
from gpt2spec_conformance.cases.decode import GREEDY, PROMPTS, REPEATING, SAMPLED, STOP, STOPPING, continued
from gpt2spec_conformance.cases.inputs import L2, LONG, token_batch
from gpt2spec_conformance.subject import Subject, backend_of
from gpt2spec_conformance.weights import weight_set

device_case = functools.partial(case, level="decode", operation="backend")

# ---------------------------------------------------------------------- the cache

BEGINNINGS = [[5, 9, 5, 30, 2, 11, 60], [40, 2, 33, 8, 1, 60, 17, 0, 24]]
CHANGES = (
    ((1, 0, 1), ([4, 50, 9], [31, 2, 2])),
    ((1, 0, 2), ([7, 7, 58], [19, 44, 0])),
    ((2, 0), ([12, 3], [3, 12])),
)
"""Which rows go on, and the tokens that they read then: exchanged and doubled, only exchanged, one dropped."""


@device_case("decode.cache.select", truth=lambda answer: {"logits": selected_logits()})
def select(subject: Subject) -> Answer:
    """Rows of a cache that are exchanged, doubled and dropped go on with the logits of the whole pass.

    The answer has the logits [rows, V] one below the other: after the beginnings, and after every token.
    """
    backend = backend_of(subject)
    with subject.context():
        params = backend.decoding_params(backend.load_params(weight_set("probe", L2)))
        rows = Rows(backend, L2, params, BEGINNINGS, L2.n_ctx)
        found = [backend.to_numpy(rows.logits)]
        for order, columns in CHANGES:
            rows.select(order)
            for tokens in columns:
                rows.append(backend.put(np.array(tokens)))
                found.append(backend.to_numpy(rows.logits))
    return {"logits": np.concatenate(found)}


def selected_logits() -> np.ndarray:
    """The truth of `select`: each text goes through a whole pass by itself."""
    from gpt2spec_conformance.runner import oracle

    texts = list(BEGINNINGS)
    read = [*texts]
    for order, columns in CHANGES:
        texts = [texts[row] for row in order]
        for tokens in columns:
            texts = [[*text, token] for text, token in zip(texts, tokens, strict=True)]
            read += texts
    params = weight_set("probe", L2)
    return np.stack([oracle().logits(L2, params, np.array([text], np.int32))[0, -1] for text in read])


@device_case("lengths.decode", truth=lambda answer: {"logits": whole_logits()})
def lengths(subject: Subject) -> Answer:
    """A text that grows from 1 token to 1024 has the logits of the whole pass at every length.

    The logits are [1024, V]. Attention looks at 64 slots of the cache, then at 128, and so on.
    """
    backend = backend_of(subject)
    tokens = token_batch(LONG, 1)[0, :-1]
    with subject.context():
        params = backend.decoding_params(backend.load_params(weight_set("probe", LONG)))
        rows = Rows(backend, LONG, params, [tokens[:1].tolist()], LONG.n_ctx)
        found = [backend.to_numpy(rows.logits)]
        for token in tokens[1:]:
            rows.append(backend.put(np.array([token])))
            found.append(backend.to_numpy(rows.logits))
    return {"logits": np.concatenate(found)}


def whole_logits() -> np.ndarray:
    """The truth of `lengths`, in one pass."""
    from gpt2spec_conformance.runner import oracle

    return oracle().logits(LONG, weight_set("probe", LONG), token_batch(LONG, 1)[:, :-1])[0]


# ---------------------------------------------------------------------- one step

_VALUES = 2.0 * generator(13, "conformance-device", 0).standard_normal((3, 11))
LOGITS = np.stack([_VALUES[0], np.round(_VALUES[1]), np.zeros(11), 20.0 * _VALUES[2]]).astype(np.float32)
"""Logits [B, V]: any, with ties, all equal, and far apart."""
SEEN = generator(13, "conformance-device", 1).random(LOGITS.shape) < 0.4
PENALTIES = (1.0, 1.5, 0.8)
TOKENS = np.array([3, 0, 10, 7], np.int32)
FILTERS = {
    "temperature": GenerateOptions(temperature=0.7),
    "top-k": GenerateOptions(top_k=4),
    "top-p": GenerateOptions(top_p=0.6, temperature=1.3),
    "openai": GenerateOptions(top_p=0.6, top_p_rule="openai"),
    "min-p": GenerateOptions(min_p=0.3),
    "all": GenerateOptions(temperature=1.3, top_k=7, top_p=0.8, min_p=0.15),
}
DISTRIBUTIONS = np.array([[0, 0.25, 0, 0.5, 0.25, 0], [0.125, 0.125, 0, 0.5, 0, 0], [0, 0, 0, 0, 0, 1]], np.float32)
"""Probabilities are binary fractions, whose sums are exact; those of the second row add up to 3 / 4."""
UNIFORM = np.array([0.0, 0.25, 0.4, 0.5, 0.75, 1.0 - 2.0**-24], np.float32)


def _on_device(subject: Subject, compute: Any, *inputs: np.ndarray) -> Answer:
    """Copies what a compiled `compute(ops, *tensors)` returns to the host."""
    backend = backend_of(subject)
    with subject.context():
        found = backend.jit(lambda *tensors: compute(backend.ops, *tensors))(*map(backend.put, inputs))
        return {name: backend.to_numpy(x) for name, x in found.items()}


@device_case("decode.device.filters", metric="whole", truth=lambda answer: host_probabilities())
def filters(subject: Subject) -> Answer:
    """The device's filters give the host's probabilities, row by row, equal tokens included."""
    return _on_device(
        subject,
        lambda ops, logits: {
            name: on_device.filtered_probabilities(ops, logits, options) for name, options in FILTERS.items()
        },
        LOGITS,
    )


def host_probabilities() -> Answer:
    """The truth of `filters`, by the host: probabilities [B, V] for each of the options."""
    return {
        name: np.stack([sampling.filtered_probabilities(row, options) for row in LOGITS.astype(float)])
        for name, options in FILTERS.items()
    }


@device_case("decode.device.penalty", truth=lambda answer: host_penalty())
def penalty(subject: Subject) -> Answer:
    """The device penalises the tokens of each row's text as the host does."""
    return _on_device(
        subject,
        lambda ops, logits, seen: {f"by {p}": on_device.penalised(ops, logits, seen > 0.0, p) + 0.0 for p in PENALTIES},
        LOGITS + np.float32(0.5),  # none is zero
        SEEN.astype(np.float32),
    )


def host_penalty() -> Answer:
    """The truth of `penalty`, by the host: logits [B, V] for each penalty."""
    rows = [(row + np.float32(0.5), np.flatnonzero(seen)) for row, seen in zip(LOGITS, SEEN, strict=True)]
    return {f"by {p}": np.stack([sampling.penalised(row, seen, p) for row, seen in rows]) for p in PENALTIES}


@device_case("decode.device.inverse-cdf", metric="exact", truth=lambda answer: host_tokens())
def inverse_cdf(subject: Subject) -> Answer:
    """The device takes the host's token for a uniform number of 0, on a boundary, between them, and nearly 1."""
    return _on_device(
        subject,
        lambda ops, p, u: {"tokens": on_device.inverse_cdf(ops, p, u)},
        np.repeat(DISTRIBUTIONS, len(UNIFORM), 0),
        np.tile(UNIFORM, len(DISTRIBUTIONS)),
    )


def host_tokens() -> Answer:
    """The truth of `inverse_cdf`, by the host: a token for each distribution and each number in turn."""
    return {
        "tokens": np.array([sampling.inverse_cdf(p.astype(float), float(u)) for p in DISTRIBUTIONS for u in UNIFORM])
    }


@device_case("decode.device.logprobs", metric="whole", truth=lambda answer: host_logprobs())
def logprobs(subject: Subject) -> Answer:
    """Log-probabilities that come from the device are those of the logits."""
    return _on_device(
        subject,
        lambda ops, logits, tokens: {"logprobs": on_device.log_probability(ops, logits, tokens)},
        LOGITS,
        TOKENS,
    )


def host_logprobs() -> Answer:
    """The truth of `logprobs`, by the host, for one token of each row."""
    return {"logprobs": sampling.log_probabilities(LOGITS.astype(float))[np.arange(len(TOKENS)), TOKENS]}


# ---------------------------------------------------------------------- whole texts

GENERATED = {
    "greedy": (STOPPING, dataclasses.replace(GREEDY, stop_tokens=STOP)),
    "penalised": (REPEATING, dataclasses.replace(GREEDY, repetition_penalty=1.5)),
    "sampled": (PROMPTS, dataclasses.replace(SAMPLED, samples=2)),
}


@device_case(
    "decode.device.generate",
    metric="exact",
    truth=lambda answer: {name: answer[name.replace("device", "host")] for name in answer if "device" in name},
)
def generate(subject: Subject) -> Answer:
    """A batch has the same continuations whether tokens are chosen on the device or on the host.

    The host chooses where it waits for each token, and the device where the host does not wait.
    """
    backend = backend_of(subject)
    answer: Answer = {}
    for where, asynchronous in (("host", False), ("device", True)):
        capabilities = dataclasses.replace(backend.capabilities, asynchronous=asynchronous)
        with mock.patch.object(backend, "capabilities", capabilities):
            for name, (prompts, options) in GENERATED.items():
                texts = continued(subject, prompts, options)
                answer |= {f"{name} {text} by the {where}": tokens for text, tokens in texts.items()}
    return answer
