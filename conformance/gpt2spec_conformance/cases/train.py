"""AdamW on given gradients, the schedule, a short training, and fresh weights."""

import math
from functools import partial

import numpy as np

from gpt2spec.config import GPT2Config
from gpt2spec.optimizer import AdamW, WarmupCosine
from gpt2spec.parameters import HostParams, Weight, weight_table
from gpt2spec.random import generator
from gpt2spec_conformance.case import Answer, Case, all_hold
from gpt2spec_conformance.cases.inputs import L1, L2, ROWS, token_batch
from gpt2spec_conformance.subject import Subject, backend_of
from gpt2spec_conformance.weights import weight_set

SCALES = (1e-14, 1e-9, 1e-4, 1.0, 1e2)
"""Sizes of synthetic gradients: below, around and above every epsilon."""
UPDATES = 3
BRIEF = AdamW()
DECAY = 0.3
"""A decay that shows beside the updates."""
INITIAL = L2.replace(n_layer=6, n_head=4, n_embd=64, n_ctx=64, vocab_size=257)


def cases() -> list[Case]:
    """All of them."""
    return [
        *(
            _adamw_case(
                f"adamw.{scale:.0e}",
                f"three updates by gradients around {scale:g}: moments, bias correction, epsilon, decay",
                BRIEF,
                scale,
            )
            for scale in SCALES
        ),
        _adamw_case(
            "decay.all",
            "decay reaches every weight, times the learning rate, beside the update and not within the gradient",
            AdamW(weight_decay=DECAY),
            1e-2,
            rate=0.1,
        ),
        _adamw_case(
            "decay.matrices",
            "decay of matrices only: embeddings and projections, not biases and layer norms",
            AdamW(weight_decay=DECAY, decay="matrices"),
            1e-2,
            rate=0.1,
        ),
        _adamw_case(
            "clip.active",
            "gradients beyond the global norm are scaled to it, all by one factor",
            AdamW(clip=0.7, epsilon=1e-2),
            3.0,
        ),
        _adamw_case(
            "clip.inactive", "gradients within the norm are left as they are", AdamW(clip=1e3, epsilon=1e-2), 0.1
        ),
        _adamw_case(
            "clip.small",
            "nothing is added to a small norm before gradients are scaled",
            AdamW(clip=1e-5, epsilon=1e-7),
            1e-6,
        ),
        Case(
            "schedule.warmup-cosine.brief",
            "train",
            "learning_rates",
            "a line from peak / warm-up to the peak, then half a cosine to zero",
            lambda s: {
                "rates": np.array(s.learning_rates(WarmupCosine(2.5e-4, 10, 100), [1, 5, 9, 10, 11, 50, 99, 100, 120]))
            },
            metric="whole",
        ),
        Case(
            "schedule.warmup-cosine.floor",
            "train",
            "learning_rates",
            "to a tenth of the peak where that is asked for",
            lambda s: {"rates": np.array(s.learning_rates(WarmupCosine(1.0, 10, 100, 0.1), [1, 10, 50, 100, 120]))},
            metric="whole",
        ),
        Case(
            "training.losses.init.L2",
            "train",
            "train_losses",
            "the losses of twelve steps from fresh weights",
            training,
            metric="whole",
        ),
        Case(
            "training.dropout.rate",
            "train",
            "backend",
            "a tenth is dropped at a rate of 0.1, within five standard errors, and the rest divided by 0.9",
            dropout_rate,
            metric="exact",
            truth=lambda answer: {"right": np.ones(2)},
        ),
        Case(
            "training.dropout.weights",
            "train",
            "backend",
            "attention weights are not dropped while their own rate is 0",
            attention_without_dropout,
            metric="exact",
            truth=lambda answer: {"dropped": answer["kept"]},
        ),
        Case(
            "initial.statistics.brief",
            "train",
            "initial_parameters",
            "standard deviations, means and shapes of fresh weights, normal and not uniform; biases exactly zero",
            initial_statistics,
            metric="exact",
            truth=all_hold,
        ),
        Case(
            "initial.statistics.wpe",
            "train",
            "initial_parameters",
            "the position embedding has a deviation of its own where that is asked for, 0.01 as in OpenAI's code",
            lambda subject: initial_statistics(subject, INITIAL.replace(wpe_initializer_range=0.01)),
            metric="exact",
            truth=all_hold,
        ),
        Case(
            "initial.streams",
            "train",
            "initial_parameters",
            "no two matrices share their numbers; the same seed gives them again, another gives others",
            initial_streams,
            metric="exact",
            truth=all_hold,
        ),
    ]


def _adamw_case(name: str, summary: str, settings: AdamW, scale: float, rate: float = 1e-2) -> Case:
    ask = partial(adamw, settings=settings, scale=scale, rate=rate)
    return Case(f"optimizer.{name}", "train", "adamw_steps", summary, ask, metric="whole")


def synthetic(scale: float, update: int) -> HostParams:
    """Normal gradients of one size, zero here and there."""

    def draw(row: int, shape: tuple[int, ...]) -> np.ndarray:
        r = generator(3, "conformance-gradients", update * 1000 + row)
        values = r.standard_normal(shape) * scale
        return np.where(r.random(shape) < 0.05, 0.0, values).astype(np.float32)

    return {weight.name: draw(row, weight.shape) for row, weight in enumerate(weight_table(L1))}


def adamw(subject: Subject, settings: AdamW, scale: float, rate: float) -> Answer:
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


def training(subject: Subject) -> Answer:
    """Twelve losses."""
    batches = np.stack([token_batch(L2, stream=i) for i in range(12)])
    batches = np.stack([batches[:, :, :-1], batches[:, :, 1:]], 1)  # [steps, 2, B, T]
    losses = subject.train_losses(L2, weight_set("init", L2), batches, AdamW(epsilon=1e-4, clip=1.0), 1e-2)
    return {"losses": np.asarray(losses)}


def dropout_rate(subject: Subject) -> Answer:
    """Ones, dropped out at a rate of which a right and an inverted one differ."""
    backend = backend_of(subject)
    run = backend.jit(lambda tree, key: backend.ops.dropout(tree["x"], 0.1, key))
    ones = {"x": backend.put(np.ones((64, 64), np.float32))}
    found = np.asarray(backend.to_numpy(run(ones, backend.dropout_key(1, 1))), np.float64)
    share = abs(float((found == 0.0).mean()) - 0.1) < 5 * math.sqrt(0.1 * 0.9 / found.size)
    scaled = np.allclose(found[found != 0.0], 1.0 / 0.9, rtol=0.01)
    return {"right": np.array([float(share), float(scaled)])}


def attention_without_dropout(subject: Subject) -> Answer:
    """Attention over values of 1 is 1, whatever the weights, as long as they add up to 1."""
    backend = backend_of(subject)
    ops = backend.ops
    shape = (ROWS, L1.n_head, L1.n_ctx, L1.head_width)
    run = backend.jit(lambda tree, key: ops.causal_attention(tree["q"], tree["q"], tree["v"], dropout=0.0, key=key))
    tree = {"q": backend.put(np.zeros(shape, np.float32)), "v": backend.put(np.ones(shape, np.float32))}
    found = np.asarray(backend.to_numpy(run(tree, backend.dropout_key(1, 1))), np.float64)
    return {"dropped": np.round(found, 2), "kept": np.ones(shape)}


def initial_statistics(subject: Subject, config: GPT2Config = INITIAL) -> Answer:
    """1 for each weight whose statistics are within five standard errors of what they should be."""
    params = subject.initial_parameters(config, 3)
    return {weight.name: np.array([_as_specified(weight, params)]) for weight in weight_table(config)}


def initial_streams(subject: Subject) -> Answer:
    """1 for what holds. Two matrices share their numbers if their beginnings are proportional."""
    names = [weight.name for weight in weight_table(L2) if weight.is_matrix]
    params, again, other = (subject.initial_parameters(L2, seed) for seed in (3, 3, 4))

    def beginnings(params: HostParams) -> np.ndarray:
        rows = np.stack([np.asarray(params[name], np.float64).reshape(-1)[:64] for name in names])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    alike = beginnings(params) @ beginnings(params).T - np.eye(len(names))
    held = {
        "own-numbers": bool(np.abs(alike).max() < 0.9),
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
