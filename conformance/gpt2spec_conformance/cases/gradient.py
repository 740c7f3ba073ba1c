"""The loss, and its gradient by every weight."""

from functools import partial

import numpy as np

from gpt2spec_conformance.case import Answer, Case, Nonconformance, told
from gpt2spec_conformance.cases.inputs import L1, L2, MODELS, token_batch, tokens_and_targets
from gpt2spec_conformance.error import EPSILON
from gpt2spec_conformance.subject import Subject
from gpt2spec_conformance.weights import WEIGHT_SETS, weight_set

PARTS = (2, 2, 1)
"""Rows of the parts of a batch, the last one smaller."""
SLOPE_TOLERANCE = 2e-5
"""Relative, and at least `SLOPE_EPSILONS`: ten times what float32 gradients are off. Differences are exact to 1e-9."""
SLOPE_EPSILONS = 8


def cases() -> list[Case]:
    """All of them."""
    found = []
    for weights in WEIGHT_SETS:
        found.append(
            Case(
                f"loss.mean.{weights}.L2",
                "gradient",
                "loss",
                f"mean cross entropy of the next token, {weights} weights",
                partial(loss, weights=weights),
                metric="whole",
            )
        )
        for size in MODELS:
            found.append(
                Case(
                    f"gradient.weights.{weights}.{size}",
                    "gradient",
                    "loss_and_gradients",
                    f"the gradient by every weight, {weights} weights; queries, keys and values by themselves",
                    partial(gradients, weights=weights, size=size),
                    metric="gradients",
                )
            )
    return [
        *found,
        Case(
            "loss.every-id",
            "gradient",
            "loss",
            "every id counts as a target, 0 among them: none is padding",
            every_id,
            metric="whole",
        ),
        Case(
            "loss.same.probe.L2",
            "gradient",
            "loss_and_gradients",
            "the loss that comes with gradients is the loss",
            lambda subject: {"loss": np.array([_loss_and_gradients(subject, "probe", "L2")[0]])},
            metric="whole",
        ),
        Case(
            "gradient.accumulated.uneven",
            "gradient",
            "accumulated_gradients",
            "a batch of five rows computed in parts of two, two and one has the loss and gradients of the whole batch",
            accumulated,
            metric="gradients",
        ),
        Case(
            "gradient.direction.probe.L2",
            "gradient",
            "loss_and_gradients",
            "the gradient along a random direction is how the float64 oracle's loss changes along it",
            directional,
            metric="exact",
            truth=lambda answer: told(),
        ),
    ]


def loss(subject: Subject, weights: str) -> Answer:
    """One number."""
    return {"loss": np.array([subject.loss(L2, weight_set(weights, L2), *tokens_and_targets(L2))])}


def every_id(subject: Subject) -> Answer:
    """The loss of targets that go through the whole vocabulary."""
    tokens, _ = tokens_and_targets(L1)
    rows = -(-L1.vocab_size // L1.n_ctx)
    targets = (np.arange(rows * L1.n_ctx, dtype=np.int32) % L1.vocab_size).reshape(rows, L1.n_ctx)
    return {"loss": np.array([subject.loss(L1, weight_set("probe", L1), np.resize(tokens, targets.shape), targets)])}


def gradients(subject: Subject, weights: str, size: str) -> Answer:
    """Every weight's."""
    return dict(_loss_and_gradients(subject, weights, size)[1])


def accumulated(subject: Subject) -> Answer:
    """The loss of all rows and every weight's gradient."""
    batch = token_batch(L1, rows=sum(PARTS))
    loss, gradients = subject.accumulated_gradients(L1, weight_set("probe", L1), batch[:, :-1], batch[:, 1:], PARTS)
    return {"loss": np.array([loss]), **gradients}


def directional(subject: Subject) -> Answer:
    """Central differences of the oracle's loss, beside the subject's gradient in the same direction."""
    from gpt2spec_conformance.runner import oracle

    params = weight_set("probe", L2)
    direction = {name: x.astype(np.float64) for name, x in weight_set("probe", L2, seed=5).items()}
    _, gradient = _loss_and_gradients(subject, "probe", "L2")
    step = 1e-6
    low, high = (
        oracle().loss(L2, {n: x.astype(np.float64) + sign * step * direction[n] for n, x in params.items()}, *_batch())
        for sign in (-1, 1)
    )
    slope = sum(float(np.sum(np.asarray(gradient[name], np.float64) * direction[name])) for name in params)
    difference = (high - low) / (2 * step)
    tolerance = max(SLOPE_TOLERANCE, SLOPE_EPSILONS * EPSILON[subject.dtype])
    if not abs(slope - difference) <= tolerance * abs(difference):
        raise Nonconformance(
            f"the gradient's slope is {slope:.7g} along a direction where the loss's is {difference:.7g}"
        )
    return told()


def _batch() -> tuple[np.ndarray, ...]:
    return tokens_and_targets(L2)


def _loss_and_gradients(subject: Subject, weights: str, size: str) -> tuple[float, dict[str, np.ndarray]]:
    config = MODELS[size]
    return subject.loss_and_gradients(config, weight_set(weights, config), *tokens_and_targets(config))
