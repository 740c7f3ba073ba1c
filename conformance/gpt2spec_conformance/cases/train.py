"""These cases ask for AdamW on given gradients, the schedule, a short training, and fresh weights."""

import math

import numpy as np

from gpt2spec.config import GPT2Config
from gpt2spec.optimizer import AdamW, WarmupCosine
from gpt2spec.parameters import HostParams, Weight, weight_table
from gpt2spec.random import generator
from gpt2spec_conformance.case import Answer, all_hold, case, product
from gpt2spec_conformance.cases.inputs import L1, L2, ROWS, token_batch
from gpt2spec_conformance.subject import Subject, backend_of
from gpt2spec_conformance.weights import weight_set

UPDATES = 3
DECAY = 0.3
"""A decay that shows beside the updates."""
INITIAL = L2.replace(n_layer=6, n_head=4, n_embd=64, n_ctx=64, vocab_size=257)


def synthetic(scale: float, update: int) -> HostParams:
    """Normal gradients of one size that are zero here and there."""

    def draw(row: int, shape: tuple[int, ...]) -> np.ndarray:
        r = generator(3, "conformance-gradients", update * 1000 + row)
        values = r.standard_normal(shape) * scale
        return np.where(r.random(shape) < 0.05, 0.0, values).astype(np.float32)

    return {weight.name: draw(row, weight.shape) for row, weight in enumerate(weight_table(L1))}


def moved(subject: Subject, settings: AdamW, scale: float, rate: float = 1e-2) -> Answer:
    """How far each weight has moved after each update, in units of the learning rate.

    Weights begin at zero, so that the smallest move is seen, unless it is the decay that is looked at.
    """
    probe = weight_set("probe", L1)
    before = probe if settings.weight_decay == DECAY else {name: np.zeros_like(x) for name, x in probe.items()}
    gradients = [synthetic(scale, update) for update in range(UPDATES)]
    after = subject.adamw_steps(settings, before, gradients, [rate, rate / 2, rate])
    return {
        f"update {update} {name}": (np.asarray(found[name], np.float64) - before[name]) / rate
        for update, found in enumerate(after, 1)
        for name in before
    }


@case(
    "optimizer.adamw.{scale:.0e}",
    level="train",
    operation="adamw_steps",
    metric="whole",
    each=product(scale=(1e-14, 1e-9, 1e-4, 1.0, 1e2)),  # below, around and above every epsilon
)
def adamw(subject: Subject, scale: float) -> Answer:
    """Three updates by gradients around {scale:g}: moments, bias correction, epsilon, decay."""
    return moved(subject, AdamW(), scale)


@case("optimizer.decay.all", level="train", operation="adamw_steps", metric="whole")
def decay(subject: Subject) -> Answer:
    """Decay reaches every weight, times the learning rate, beside the update and not within the gradient."""
    return moved(subject, AdamW(weight_decay=DECAY), 1e-2, rate=0.1)


@case("optimizer.decay.matrices", level="train", operation="adamw_steps", metric="whole")
def decay_of_matrices(subject: Subject) -> Answer:
    """Decay of matrices only: embeddings and projections, not biases and layer norms."""
    return moved(subject, AdamW(weight_decay=DECAY, decay="matrices"), 1e-2, rate=0.1)


@case("optimizer.clip.active", level="train", operation="adamw_steps", metric="whole")
def clipping(subject: Subject) -> Answer:
    """Gradients beyond the global norm are scaled to it, all by one factor."""
    return moved(subject, AdamW(clip=0.7, epsilon=1e-2), 3.0)


@case("optimizer.clip.inactive", level="train", operation="adamw_steps", metric="whole")
def clipping_of_nothing(subject: Subject) -> Answer:
    """Gradients within the norm are left as they are."""
    return moved(subject, AdamW(clip=1e3, epsilon=1e-2), 0.1)


@case("optimizer.clip.small", level="train", operation="adamw_steps", metric="whole")
def clipping_of_small_gradients(subject: Subject) -> Answer:
    """Nothing is added to a small norm before gradients are scaled."""
    return moved(subject, AdamW(clip=1e-5, epsilon=1e-7), 1e-6)


@case("schedule.warmup-cosine.brief", level="train", operation="learning_rates", metric="whole")
def learning_rates(subject: Subject) -> Answer:
    """A line from peak / warm-up to the peak, then half a cosine to zero."""
    rates = subject.learning_rates(WarmupCosine(2.5e-4, 10, 100), [1, 5, 9, 10, 11, 50, 99, 100, 120])
    return {"rates": np.array(rates)}


@case("schedule.warmup-cosine.floor", level="train", operation="learning_rates", metric="whole")
def learning_rates_above_a_floor(subject: Subject) -> Answer:
    """To a tenth of the peak where that is asked for."""
    rates = subject.learning_rates(WarmupCosine(1.0, 10, 100, 0.1), [1, 10, 50, 100, 120])
    return {"rates": np.array(rates)}


@case("training.losses.init.L2", level="train", operation="train_losses", metric="whole")
def training(subject: Subject) -> Answer:
    """The losses of twelve steps from fresh weights."""
    batches = np.stack([token_batch(L2, stream=i) for i in range(12)])
    batches = np.stack([batches[:, :, :-1], batches[:, :, 1:]], 1)  # [steps, 2, B, T]
    losses = subject.train_losses(L2, weight_set("init", L2), batches, AdamW(epsilon=1e-4, clip=1.0), 1e-2)
    return {"losses": np.asarray(losses)}


@case("training.dropout.rate", level="train", operation="backend", metric="exact", truth=all_hold)
def dropout_rate(subject: Subject) -> Answer:
    """A tenth is dropped at a rate of 0.1, within five standard errors, and the rest divided by 0.9.

    At 0.1, unlike at 0.5, the probability of dropping is not that of keeping.
    """
    backend = backend_of(subject)
    run = backend.jit(lambda tree, key: backend.ops.dropout(tree["x"], 0.1, key))
    ones = {"x": backend.put(np.ones((64, 64), np.float32))}
    found = np.asarray(backend.to_numpy(run(ones, backend.dropout_key(1, 1))), np.float64)
    share = abs(float((found == 0.0).mean()) - 0.1) < 5 * math.sqrt(0.1 * 0.9 / found.size)
    scaled = np.allclose(found[found != 0.0], 1.0 / 0.9, rtol=0.01)
    return {"right": np.array([float(share), float(scaled)])}


@case(
    "training.dropout.weights",
    level="train",
    operation="backend",
    metric="exact",
    truth=lambda answer: {"dropped": answer["kept"]},
)
def attention_without_dropout(subject: Subject) -> Answer:
    """Attention weights are not dropped while their own rate is 0.

    Attention over values of 1 is 1, whatever the weights, as long as they add up to 1.
    """
    backend = backend_of(subject)
    ops = backend.ops
    shape = (ROWS, L1.n_head, L1.n_ctx, L1.head_width)
    run = backend.jit(lambda tree, key: ops.causal_attention(tree["q"], tree["q"], tree["v"], dropout=0.0, key=key))
    tree = {"q": backend.put(np.zeros(shape, np.float32)), "v": backend.put(np.ones(shape, np.float32))}
    found = np.asarray(backend.to_numpy(run(tree, backend.dropout_key(1, 1))), np.float64)
    return {"dropped": np.round(found, 2), "kept": np.ones(shape)}


@case("initial.statistics.brief", level="train", operation="initial_parameters", metric="exact", truth=all_hold)
def initial_statistics(subject: Subject, config: GPT2Config = INITIAL) -> Answer:
    """Standard deviations, means and shapes of fresh weights, normal and not uniform; biases exactly zero.

    The answer is 1 for each weight whose statistics are within five standard errors of what they should be.
    """
    params = subject.initial_parameters(config, 3)
    return {weight.name: np.array([_as_specified(weight, params)]) for weight in weight_table(config)}


@case("initial.statistics.wpe", level="train", operation="initial_parameters", metric="exact", truth=all_hold)
def initial_positions(subject: Subject) -> Answer:
    """The position embedding has a deviation of its own where that is asked for, 0.01 as in OpenAI's code."""
    return initial_statistics(subject, INITIAL.replace(wpe_initializer_range=0.01))


@case("initial.streams", level="train", operation="initial_parameters", metric="exact", truth=all_hold)
def initial_streams(subject: Subject) -> Answer:
    """No two matrices share their numbers; the same seed gives them again, another gives others.

    Two matrices share their numbers if their beginnings are proportional.
    """
    names = [weight.name for weight in weight_table(L2) if weight.is_matrix]
    params, again, other = (subject.initial_parameters(L2, seed) for seed in (3, 3, 4))

    def beginnings(params: HostParams) -> np.ndarray:
        rows = np.stack([np.asarray(params[name], np.float64).reshape(-1)[:64] for name in names])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    similarity = beginnings(params) @ beginnings(params).T - np.eye(len(names))
    held = {
        "own-numbers": bool(np.abs(similarity).max() < 0.9),
        "same-seed": all(np.array_equal(params[name], again[name]) for name in names),
        "other-seed": not any(np.array_equal(params[name], other[name]) for name in names),
    }
    return {name: np.array([float(holds)]) for name, holds in held.items()}


def _as_specified(weight: Weight, params: HostParams) -> float:
    x = np.asarray(params[weight.name], np.float64)
    mean, std = weight.mean, weight.std
    if x.shape != weight.shape:
        return 0.0
    if std == 0:
        return float((x == mean).all())
    n = x.size
    kurtosis = float(np.mean(((x - x.mean()) / x.std()) ** 4))  # 3 for a normal distribution, 1.8 for a uniform one
    checks = [
        abs(x.mean() - mean) < 5 * std / math.sqrt(n),
        abs(x.std() / std - 1) < 5 / math.sqrt(2 * n),
        abs(kurtosis - 3) < 5 * math.sqrt(24 / n),
    ]
    return float(all(checks))
