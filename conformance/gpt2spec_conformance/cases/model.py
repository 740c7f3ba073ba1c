"""The forward pass: logits, the stream after each block, and laws that hold for any weights."""

from functools import partial

import numpy as np

from gpt2spec_conformance.case import Answer, Case, all_hold
from gpt2spec_conformance.cases.inputs import L2, MODELS, token_batch, tokens_and_targets
from gpt2spec_conformance.subject import Subject
from gpt2spec_conformance.weights import WEIGHT_SETS, weight_set


def cases() -> list[Case]:
    """All of them."""
    found = []
    for weights in WEIGHT_SETS:
        for size in MODELS:
            found.append(
                Case(
                    f"model.logits.{weights}.{size}",
                    "inference",
                    "logits",
                    f"logits at every position of a full context, {weights} weights",
                    partial(logits, weights=weights, size=size),
                )
            )
        found.append(
            Case(
                f"model.taps.{weights}.L2",
                "inference",
                "taps",
                f"attention output, MLP output and residual stream of each block, {weights} weights",
                partial(taps, weights=weights),
            )
        )
    return [
        *found,
        Case(
            "model.logits.probe.T1",
            "inference",
            "logits",
            "logits of a single token",
            lambda s: logits(s, "probe", "L2", 1),
        ),
        Case(
            "model.laws.causality",
            "inference",
            "logits",
            "changing a later token changes no earlier logit",
            causality,
            truth=lambda answer: {"changed": answer["original"]},
        ),
        Case(
            "model.laws.future-matters",
            "inference",
            "logits",
            "changing a token changes the logits at and after it",
            future_matters,
            metric="exact",
            truth=all_hold,
        ),
        Case(
            "model.laws.rows",
            "inference",
            "logits",
            "rows do not see each other: permuted rows give permuted logits",
            permuted_rows,
            truth=lambda answer: {"permuted": answer["original"]},
        ),
        Case(
            "model.laws.prefix",
            "inference",
            "logits",
            "a prefix has the logits it has within the whole",
            prefix,
            truth=lambda answer: {"prefix": answer["original"]},
        ),
        Case(
            "model.laws.repeated",
            "inference",
            "logits",
            "logits follow their inputs: another batch between two calls changes nothing, and is not the first again",
            repeated,
            metric="exact",
            truth=lambda answer: {"again": answer["first"], "other-differs": np.ones(1)},
        ),
    ]


def logits(subject: Subject, weights: str, size: str, positions: int | None = None) -> Answer:
    """Logits [B, T, V]."""
    config = MODELS[size]
    tokens, _ = tokens_and_targets(config, positions)
    return {"logits": subject.logits(config, weight_set(weights, config), tokens)}


def taps(subject: Subject, weights: str) -> Answer:
    """What leaves each block's branches and the block."""
    tokens, _ = tokens_and_targets(L2)
    return subject.taps(L2, weight_set(weights, L2), tokens)


def _logits(subject: Subject, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(subject.logits(L2, weight_set("probe", L2), tokens))


def causality(subject: Subject) -> Answer:
    """Everything from position 9 on changed."""
    tokens = token_batch(L2)[:, :-1]
    changed = tokens.copy()
    changed[:, 9:] = (changed[:, 9:] + 7) % L2.vocab_size
    return {"original": _logits(subject, tokens)[:, :9], "changed": _logits(subject, changed)[:, :9]}


def future_matters(subject: Subject) -> Answer:
    """Which positions differ after a change of the token at position 9, from there on."""
    tokens = token_batch(L2)[:, :-1]
    changed = tokens.copy()
    changed[:, 9] = (changed[:, 9] + 7) % L2.vocab_size
    difference = np.abs(_logits(subject, tokens) - _logits(subject, changed)).max(-1)
    return {"differs": (difference[:, 9:] > 1e-4).astype(float)}


def permuted_rows(subject: Subject) -> Answer:
    """The two rows exchanged, and the logits exchanged back."""
    tokens = token_batch(L2)[:, :-1]
    return {"original": _logits(subject, tokens), "permuted": _logits(subject, tokens[::-1].copy())[::-1]}


def prefix(subject: Subject) -> Answer:
    """The first nine positions alone."""
    tokens = token_batch(L2)[:, :-1]
    return {"original": _logits(subject, tokens)[:, :9], "prefix": _logits(subject, tokens[:, :9].copy())}


def repeated(subject: Subject) -> Answer:
    """One batch, another, and the first again."""
    batch, other = token_batch(L2)[:, :-1], token_batch(L2, stream=1)[:, :-1]
    first = _logits(subject, batch)
    middle = _logits(subject, other)
    return {
        "first": first,
        "again": _logits(subject, batch),
        "other-differs": np.array([float(np.abs(middle - first).max() > 1e-4)]),
    }
