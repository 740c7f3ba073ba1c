"""These cases ask for logits, the stream after each block, and laws that hold for any weights."""

import numpy as np

from gpt2spec_conformance.case import Answer, all_hold, case, product
from gpt2spec_conformance.cases.inputs import L2, MODELS, token_batch, tokens_and_targets
from gpt2spec_conformance.subject import Subject
from gpt2spec_conformance.weights import WEIGHT_SETS, weight_set


@case(
    "model.logits.{weights}.{size}",
    level="inference",
    operation="logits",
    each=product(weights=WEIGHT_SETS, size=MODELS),
)
def logits(subject: Subject, weights: str, size: str, positions: int | None = None) -> Answer:
    """Logits at every position of a full context, {weights} weights."""
    config = MODELS[size]
    tokens, _ = tokens_and_targets(config, positions)
    return {"logits": subject.logits(config, weight_set(weights, config), tokens)}  # [B, T, V]


@case("model.taps.{weights}.L2", level="inference", operation="taps", each=product(weights=WEIGHT_SETS))
def taps(subject: Subject, weights: str) -> Answer:
    """Attention output, MLP output and residual stream of each block, {weights} weights."""
    tokens, _ = tokens_and_targets(L2)
    return subject.taps(L2, weight_set(weights, L2), tokens)


@case("model.logits.probe.T1", level="inference", operation="logits")
def single_token(subject: Subject) -> Answer:
    """Logits of a single token."""
    return logits(subject, "probe", "L2", positions=1)


def _logits(subject: Subject, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(subject.logits(L2, weight_set("probe", L2), tokens))


@case(
    "model.laws.causality",
    level="inference",
    operation="logits",
    truth=lambda answer: {"changed": answer["original"]},
)
def causality(subject: Subject) -> Answer:
    """Changing a later token changes no earlier logit."""
    tokens = token_batch(L2)[:, :-1]
    changed = tokens.copy()
    changed[:, 9:] = (changed[:, 9:] + 7) % L2.vocab_size
    return {"original": _logits(subject, tokens)[:, :9], "changed": _logits(subject, changed)[:, :9]}


@case("model.laws.future-matters", level="inference", operation="logits", metric="exact", truth=all_hold)
def future_matters(subject: Subject) -> Answer:
    """Changing a token changes the logits at and after it."""
    tokens = token_batch(L2)[:, :-1]
    changed = tokens.copy()
    changed[:, 9] = (changed[:, 9] + 7) % L2.vocab_size
    difference = np.abs(_logits(subject, tokens) - _logits(subject, changed)).max(-1)
    return {"differs": (difference[:, 9:] > 1e-4).astype(float)}


@case("model.laws.rows", level="inference", operation="logits", truth=lambda answer: {"permuted": answer["original"]})
def permuted_rows(subject: Subject) -> Answer:
    """Rows do not see each other: permuted rows give permuted logits."""
    tokens = token_batch(L2)[:, :-1]
    return {"original": _logits(subject, tokens), "permuted": _logits(subject, tokens[::-1].copy())[::-1]}


@case("model.laws.prefix", level="inference", operation="logits", truth=lambda answer: {"prefix": answer["original"]})
def prefix(subject: Subject) -> Answer:
    """A prefix has the logits it has within the whole."""
    tokens = token_batch(L2)[:, :-1]
    return {"original": _logits(subject, tokens)[:, :9], "prefix": _logits(subject, tokens[:, :9].copy())}


@case(
    "model.laws.repeated",
    level="inference",
    operation="logits",
    metric="exact",
    truth=lambda answer: {"again": answer["first"], "other-differs": np.ones(1)},
)
def repeated(subject: Subject) -> Answer:
    """Logits follow their inputs: another batch between two calls changes nothing, and is not the first again."""
    batch, other = token_batch(L2)[:, :-1], token_batch(L2, stream=1)[:, :-1]
    first = _logits(subject, batch)
    middle = _logits(subject, other)
    return {
        "first": first,
        "again": _logits(subject, batch),
        "other-differs": np.array([float(np.abs(middle - first).max() > 1e-4)]),
    }
