"""These cases ask for the loss and its gradient by every weight."""

import numpy as np

from gpt2spec_conformance.case import Answer, Nonconformance, all_hold, case, nothing_wrong, product
from gpt2spec_conformance.cases.inputs import L1, L2, MODELS, token_batch, tokens_and_targets
from gpt2spec_conformance.error import EPSILON
from gpt2spec_conformance.subject import Subject
from gpt2spec_conformance.weights import WEIGHT_SETS, weight_set

SIZES = (2, 2, 1)
"""The rows of each micro-batch, of which the last has fewer."""
SLOPE_TOLERANCE = 2e-5
"""The relative tolerance, at least `SLOPE_EPSILONS`, is ten times the error of float32 gradients; that of central
differences is 1e-9."""
SLOPE_EPSILONS = 8


@case("loss.mean.{weights}.L2", level="gradient", operation="loss", metric="whole", each=product(weights=WEIGHT_SETS))
def loss(subject: Subject, weights: str) -> Answer:
    """Mean cross entropy of the next token, {weights} weights."""
    return {"loss": np.array([subject.loss(L2, weight_set(weights, L2), *tokens_and_targets(L2))])}


@case(
    "gradient.weights.{weights}.{size}",
    level="gradient",
    operation="loss_and_gradients",
    metric="gradients",
    each=product(weights=WEIGHT_SETS, size=MODELS),
)
def gradients(subject: Subject, weights: str, size: str) -> Answer:
    """The gradient by every weight, {weights} weights; queries, keys and values by themselves."""
    return dict(_loss_and_gradients(subject, weights, size)[1])


@case("loss.every-id", level="gradient", operation="loss", metric="whole")
def every_id(subject: Subject) -> Answer:
    """Every id counts as a target, 0 among them: none is padding.

    The targets go through the whole vocabulary.
    """
    tokens, _ = tokens_and_targets(L1)
    rows = -(-L1.vocab_size // L1.n_ctx)
    targets = (np.arange(rows * L1.n_ctx, dtype=np.int32) % L1.vocab_size).reshape(rows, L1.n_ctx)
    return {"loss": np.array([subject.loss(L1, weight_set("probe", L1), np.resize(tokens, targets.shape), targets)])}


@case("loss.same.probe.L2", level="gradient", operation="loss_and_gradients", metric="whole")
def loss_beside_gradients(subject: Subject) -> Answer:
    """The loss that comes with gradients is the loss."""
    return {"loss": np.array([_loss_and_gradients(subject, "probe", "L2")[0]])}


@case("gradient.accumulated.uneven", level="gradient", operation="accumulated_gradients", metric="gradients")
def accumulated(subject: Subject) -> Answer:
    """A batch of five rows computed in parts of two, two and one has the loss and gradients of the whole batch."""
    batch = token_batch(L1, rows=sum(SIZES))
    loss, gradients = subject.accumulated_gradients(L1, weight_set("probe", L1), batch[:, :-1], batch[:, 1:], SIZES)
    return {"loss": np.array([loss]), **gradients}


@case("gradient.direction.probe.L2", level="gradient", operation="loss_and_gradients", metric="exact", truth=all_hold)
def directional(subject: Subject) -> Answer:
    """The gradient along a random direction is how the float64 oracle's loss changes along it.

    Central differences measure that change.
    """
    from gpt2spec_conformance.runner import oracle

    params, batch = weight_set("probe", L2), tokens_and_targets(L2)
    direction = {name: x.astype(np.float64) for name, x in weight_set("probe", L2, seed=5).items()}
    _, gradient = _loss_and_gradients(subject, "probe", "L2")
    step = 1e-6
    low, high = (
        oracle().loss(L2, {n: x.astype(np.float64) + sign * step * direction[n] for n, x in params.items()}, *batch)
        for sign in (-1, 1)
    )
    slope = sum(float(np.sum(np.asarray(gradient[name], np.float64) * direction[name])) for name in params)
    difference = (high - low) / (2 * step)
    tolerance = max(SLOPE_TOLERANCE, SLOPE_EPSILONS * EPSILON[subject.dtype])
    if not abs(slope - difference) <= tolerance * abs(difference):
        raise Nonconformance(
            f"the gradient's slope is {slope:.7g} along a direction where the loss's is {difference:.7g}"
        )
    return nothing_wrong()


def _loss_and_gradients(subject: Subject, weights: str, size: str) -> tuple[float, dict[str, np.ndarray]]:
    config = MODELS[size]
    return subject.loss_and_gradients(config, weight_set(weights, config), *tokens_and_targets(config))
