"""AdamW, clipping and the learning-rate schedule agree with the textbook."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from gpt2spec_conformance.weights import weight_set
from gpt2spec_numpy.create import create
from hypothesis import given
from hypothesis import strategies as st

from gpt2spec.api import loss_and_gradients
from gpt2spec.config import GPT2Config
from gpt2spec.errors import ConfigError
from gpt2spec.optimizer import (
    AdamW,
    WarmupCosine,
    apply_gradients,
    clip_scale,
    decay_rates,
    initial_state,
    train_step,
    update_scalars,
)
from gpt2spec.parameters import HostParams, weight_table
from gpt2spec.training.recipes import RECIPES, recipe
from gpt2spec.tree import named_leaves, tree_leaves

BACKEND = create(dtype="float64")
CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=8, n_ctx=6, vocab_size=11, dropout=0.0)
MODES = pytest.mark.parametrize("mode", ["fast", "reference"])


def synthetic_gradients(steps: int, scale: float = 1.0, seed: int = 0) -> list[HostParams]:
    """Gradients of all sizes from 1e-14 to 1e2 in every tensor; some entries change sign from step to step."""
    r = np.random.default_rng(seed)

    def draw(shape: tuple[int, ...]) -> np.ndarray:
        return scale * r.choice([-1.0, 1.0], shape) * 10.0 ** r.uniform(-14, 2, shape)

    return [{weight.name: draw(weight.shape) for weight in weight_table(CONFIG)} for _ in range(steps)]


def run(backend: Any, adamw: AdamW, gradients: list[HostParams], lrs: list[float], first: int = 1) -> Any:
    """State and norms after the updates `first`, `first` + 1, ..."""
    state = initial_state(backend.ops, backend.load_params(weight_set("probe", CONFIG)))
    norms = []
    for i, (grads, lr) in enumerate(zip(gradients, lrs, strict=True)):
        scalars = {name: backend.put(np.array(x)) for name, x in update_scalars(adamw, lr, first + i).items()}
        state, norm = apply_gradients(backend.ops, adamw, state, backend.load_params(grads), scalars)
        norms.append(float(norm))
    return {name: backend.dump_params(tree) for name, tree in state.items()}, norms


def textbook(adamw: AdamW, gradients: list[HostParams], lrs: list[float], first: int = 1) -> Any:
    """Loshchilov & Hutter's algorithm 2 for single numbers, in plain Python floats."""
    params = {name: array.astype(float).ravel().tolist() for name, array in weight_set("probe", CONFIG).items()}
    m = {name: [0.0] * len(values) for name, values in params.items()}
    v = {name: [0.0] * len(values) for name, values in params.items()}
    for t, (grads, lr) in enumerate(zip(gradients, lrs, strict=True), first):
        norm = math.sqrt(math.fsum(g * g for array in grads.values() for g in array.ravel().tolist()))
        factor = adamw.clip / norm if adamw.clip and norm > adamw.clip else 1.0
        for name, values in params.items():
            decayed = adamw.decay == "all" or grads[name].ndim == 2
            for i, g in enumerate(grads[name].ravel().tolist()):
                g *= factor
                m[name][i] = adamw.beta1 * m[name][i] + (1 - adamw.beta1) * g
                v[name][i] = adamw.beta2 * v[name][i] + (1 - adamw.beta2) * g * g
                m_hat = m[name][i] / (1 - adamw.beta1**t)
                v_hat = v[name][i] / (1 - adamw.beta2**t)
                direction = m_hat / (math.sqrt(v_hat) + adamw.epsilon)
                values[i] -= lr * (direction + (adamw.weight_decay * values[i] if decayed else 0.0))
    return {"params": params, "m": m, "v": v}


def assert_same(state: Any, expected: Any, rtol: float) -> None:
    """Compare element by element, because each is a sum of few terms, and small ones matter as much as large ones."""
    start = weight_set("probe", CONFIG)
    for part, trees in expected.items():
        for name, values in trees.items():
            atol = rtol * np.abs(start[name]).ravel() if part == "params" else 1e-300
            difference = np.abs(state[part][name].ravel() - np.asarray(values))
            limit = rtol * np.abs(values) + atol
            if part == "m":  # a sum that can cancel
                limit = limit + rtol * np.sqrt(np.asarray(expected["v"][name]))
            assert (difference <= limit).all(), (part, name, float((difference - limit).max()))


SETTINGS = {
    "brief": AdamW(),
    "matrices, clip": AdamW(weight_decay=0.1, decay="matrices", clip=1.0),
    "other betas": AdamW(beta1=0.8, beta2=0.999, epsilon=1e-6, weight_decay=0.3),
    "no decay": AdamW(weight_decay=0.0),
    "no momentum": AdamW(beta1=0.0, beta2=0.0),
}


@MODES
@pytest.mark.parametrize("settings", SETTINGS)
def test_five_updates_are_the_textbooks(mode: str, settings: str) -> None:
    adamw, gradients, lrs = SETTINGS[settings], synthetic_gradients(5), [1e-2, 2e-2, 3e-3, 1e-2, 0.0]
    state, _ = run(create(dtype="float64", mode=mode), adamw, gradients, lrs)
    assert_same(state, textbook(adamw, gradients, lrs), rtol=1e-12)


@MODES
@pytest.mark.parametrize("update", [1, 2, 1000])
def test_bias_correction_belongs_to_the_update(mode: str, update: int) -> None:
    adamw, gradients = AdamW(beta2=0.999), synthetic_gradients(1)
    state, _ = run(create(dtype="float64", mode=mode), adamw, gradients, [0.1], first=update)
    assert_same(state, textbook(adamw, gradients, [0.1], first=update), rtol=1e-12)


def test_the_first_update_goes_by_the_sign() -> None:
    """m / (1 - beta1) over the root of v / (1 - beta2) is g / |g|, where epsilon does not count."""
    (grads,) = synthetic_gradients(1)
    state, _ = run(BACKEND, AdamW(weight_decay=0.0), [grads], [0.1])
    for name, before in weight_set("probe", CONFIG).items():
        g = grads[name]
        expected = -0.1 * np.sign(g) * np.abs(g) / (np.abs(g) + 1e-8)
        np.testing.assert_allclose(state["params"][name] - before, expected, rtol=1e-9, atol=1e-15)


def test_corrections_are_computed_in_double_precision_from_update_1() -> None:
    first = {"lr": 0.5, "update": 1.0, "correction1": 1 - 0.9, "correction2": 1 - 0.95}
    assert update_scalars(AdamW(), 0.5, 1) == first
    late = update_scalars(AdamW(beta2=0.999), 0.5, 1000)
    assert late["correction1"] == 1 - 0.9**1000
    assert late["correction2"] == pytest.approx(1 - math.exp(1000 * math.log(0.999)), rel=1e-12)


@MODES
@pytest.mark.parametrize("decay", ["all", "matrices"])
def test_agreement_with_pytorch(mode: str, decay: Any) -> None:
    adamw = AdamW(beta2=0.99, weight_decay=0.1, decay=decay, clip=0.7)
    gradients, lrs = synthetic_gradients(4), [1e-2, 3e-2, 1e-3, 2e-2]
    theirs = {n: torch.tensor(x.astype(float), requires_grad=True) for n, x in weight_set("probe", CONFIG).items()}
    decayed = [x for x in theirs.values() if decay == "all" or x.ndim == 2]
    rest = [x for x in theirs.values() if decay != "all" and x.ndim != 2]
    groups = [{"params": decayed}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups[: 2 if rest else 1], betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
    norms = []
    for grads, lr in zip(gradients, lrs, strict=True):
        for name, x in theirs.items():
            x.grad = torch.tensor(grads[name])
        norms.append(float(torch.nn.utils.get_total_norm([x.grad for x in theirs.values() if x.grad is not None])))
        for x in theirs.values():
            x.grad = x.grad * min(1.0, 0.7 / norms[-1]) if x.grad is not None else None
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    state, found_norms = run(create(dtype="float64", mode=mode), adamw, gradients, lrs)
    np.testing.assert_allclose(found_norms, norms, rtol=1e-12)
    for name, x in theirs.items():
        np.testing.assert_allclose(state["params"][name], x.detach().numpy(), rtol=1e-11, atol=1e-13)


# Which weights decay


@pytest.mark.parametrize("decay", ["all", "matrices"])
def test_decay_by_name_is_decay_by_rank(decay: Any) -> None:
    adamw = AdamW(weight_decay=0.3, decay=decay)
    params = BACKEND.load_params(weight_set("init", CONFIG))
    host = BACKEND.dump_params(params)
    expected = [0.3 if decay == "all" or weight.is_matrix else 0.0 for weight in weight_table(CONFIG)]
    by_leaf = {id(leaf): rate for (_, leaf), rate in zip(named_leaves(params), decay_rates(adamw, params), strict=True)}
    tree = {name: node for name, node in params.items() if name not in ("blocks", "ln_f")}
    in_table_order = [leaf for _, leaf in named_leaves({**tree, "h": params["blocks"], "ln_f": params["ln_f"]})]
    assert [leaf.shape for leaf in in_table_order] == [x.shape for x in host.values()]
    assert [by_leaf[id(leaf)] for leaf in in_table_order] == expected


@MODES
@pytest.mark.parametrize("decay", ["all", "matrices"])
def test_decay_shrinks_each_weight_by_lr_lambda_and_nothing_else(mode: str, decay: Any) -> None:
    """It is decoupled: with a gradient of zero, the moments do not change."""
    grads = {weight.name: np.zeros(weight.shape) for weight in weight_table(CONFIG)}
    adamw = AdamW(weight_decay=0.25, decay=decay, clip=1.0)
    state, norms = run(create(dtype="float64", mode=mode), adamw, [grads], [0.5])
    assert norms == [0.0]
    for name, before in weight_set("probe", CONFIG).items():
        kept = 1 - 0.5 * 0.25 if decay == "all" or before.ndim == 2 else 1.0
        np.testing.assert_allclose(state["params"][name], kept * before.astype(float), rtol=1e-14)
        assert not state["m"][name].any()
        assert not state["v"][name].any()


# Clipping


@MODES
@pytest.mark.parametrize(("ratio", "factor"), [(0.5, 1.0), (1.0, 1.0), (2.0, 0.5), (1e6, 1e-6)])
def test_the_whole_gradient_is_scaled_down_to_the_clip_and_its_norm_told_before(
    mode: str, ratio: float, factor: float
) -> None:
    (grads,) = synthetic_gradients(1)
    norm = math.sqrt(sum(float(np.sum(g * g)) for g in grads.values()))
    adamw = AdamW(clip=norm / ratio, beta1=0.5)
    state, norms = run(create(dtype="float64", mode=mode), adamw, [grads], [0.1])
    assert norms == pytest.approx([norm], rel=1e-12)
    for name, g in grads.items():
        np.testing.assert_allclose(state["m"][name], 0.5 * factor * g, rtol=1e-12)


@MODES
def test_clip_0_is_off(mode: str) -> None:
    gradients = synthetic_gradients(1, scale=1e6)
    state, _ = run(create(dtype="float64", mode=mode), AdamW(beta1=0.5, clip=0.0), gradients, [0.1])
    np.testing.assert_allclose(state["m"]["wte.weight"], 0.5 * gradients[0]["wte.weight"], rtol=1e-14)


def test_the_clip_scale_of_a_norm() -> None:
    def scale(norm: float, clip: float) -> float:
        return float(clip_scale(BACKEND.ops, BACKEND.put(np.array(norm)), clip))

    assert [scale(norm, 2.0) for norm in (0.0, 1.0, 2.0, 4.0)] == [1.0, 1.0, 1.0, 0.5]
    assert scale(1e9, 0.0) == 1.0


# A whole step


@MODES
def test_a_train_step_is_loss_gradients_and_update(mode: str) -> None:
    backend, params = create(dtype="float64", mode=mode), weight_set("probe", CONFIG)
    adamw = AdamW(clip=0.5)
    tokens, targets = np.random.default_rng(0).integers(0, 11, (2, 3, 6))
    loss, grads = loss_and_gradients(backend, CONFIG, params, tokens, targets)
    expected, norms = run(backend, adamw, [grads], [0.01])
    scalars = {name: backend.put(np.array(x)) for name, x in update_scalars(adamw, 0.01, 1).items()}
    state = initial_state(backend.ops, backend.load_params(params))
    state, metrics = train_step(backend, CONFIG, adamw)(state, backend.put(tokens), backend.put(targets), scalars, None)
    assert (float(metrics["loss"]), [float(metrics["grad_norm"])]) == (loss, norms)
    for part in ("params", "m", "v"):
        for name, array in backend.dump_params(state[part]).items():
            assert (array == expected[part][name]).all()


def test_a_fresh_state_has_moments_of_zero() -> None:
    params = BACKEND.load_params(weight_set("probe", CONFIG))
    state = initial_state(BACKEND.ops, params)
    assert state["params"] is params
    for p, m, v in zip(*(tree_leaves(state[name]) for name in ("params", "m", "v")), strict=True):
        assert p.shape == m.shape == v.shape
        assert not m.any()
        assert not v.any()
        assert not np.shares_memory(m, v)


# The learning rate's course


def test_the_rate_rises_in_a_line_and_falls_in_half_a_cosine() -> None:
    course = WarmupCosine(peak=8.0, warmup=4, steps=12, final_fraction=0.25)
    assert [course(t) for t in (1, 2, 3, 4)] == [2.0, 4.0, 6.0, 8.0]
    assert course(5) == pytest.approx(2 + 6 * (1 + math.cos(math.pi / 8)) / 2, rel=1e-15)
    assert course(8) == pytest.approx(5.0, rel=1e-15)
    assert course(11) == pytest.approx(2 + 6 * (1 + math.cos(math.pi * 7 / 8)) / 2, rel=1e-15)
    assert [course(t) for t in (12, 13, 10**9)] == [2.0, 2.0, 2.0]


def test_the_brief_ends_at_zero() -> None:
    course = WarmupCosine(peak=2.5e-4, warmup=2000, steps=10_000)
    assert (course(1), course(2000), course(10_000), course(10_001)) == (2.5e-4 / 2000, 2.5e-4, 0.0, 0.0)
    assert 0 < course(9_999) < course(9_998) < course(2001) < 2.5e-4


def test_without_warm_up_the_first_update_has_nearly_the_peak() -> None:
    course = WarmupCosine(peak=1.0, warmup=0, steps=4)
    expected = [(1 + math.cos(math.pi * t / 4)) / 2 for t in (1, 2, 3)]
    assert [course(t) for t in (1, 2, 3)] == pytest.approx(expected, rel=1e-15)
    assert course(4) == 0.0


def test_a_run_may_be_warm_up_only() -> None:
    assert [WarmupCosine(peak=1.0, warmup=2, steps=2)(t) for t in (1, 2, 3)] == [0.5, 1.0, 0.0]


@given(st.floats(1e-9, 10), st.integers(0, 50), st.integers(1, 100), st.floats(0, 1))
def test_the_rate_never_jumps_up_after_its_peak_nor_leaves_its_bounds(
    peak: float, warmup: int, more: int, final_fraction: float
) -> None:
    course = WarmupCosine(peak, warmup, warmup + more, final_fraction)
    rates = [course(t) for t in range(1, warmup + more + 3)]
    slack = peak * 1e-12
    assert all(a < b for a, b in pairwise(rates[:warmup]))
    assert all(a >= b - slack for a, b in pairwise(rates[max(0, warmup - 1) :]))
    assert all(0 <= rate <= peak + slack for rate in rates)
    assert rates[-1] == peak * final_fraction


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdamW(beta1=1.0), "beta1 lies from 0 to below 1, not 1.0"),
        (lambda: AdamW(beta2=-0.1), "beta2 lies from 0 to below 1, not -0.1"),
        (lambda: AdamW(beta2=math.nan), "beta2 is a finite number, not nan"),
        (lambda: AdamW(epsilon=0.0), "epsilon is above 0, not 0.0"),
        (lambda: AdamW(weight_decay=-1.0), "weight_decay is at least 0, not -1.0"),
        (lambda: AdamW(decay="some"), "decay is 'all' or 'matrices', not 'some'"),  # type: ignore[arg-type]
        (lambda: AdamW(clip=-1.0), "clip is above 0, or 0 for none, not -1.0"),
        (lambda: AdamW(clip=math.nan), "clip is a finite number, not nan"),
        (lambda: WarmupCosine(0.0, 1, 2), "a learning rate is above 0, not 0.0"),
        (lambda: WarmupCosine(math.inf, 1, 2), "a learning rate is above 0, not inf"),
        (lambda: WarmupCosine(math.nan, 1, 2), "a learning rate is above 0, not nan"),
        (lambda: WarmupCosine(1.0, 3, 2), r"the warm-up has from 0 to 2 updates \(the whole run\), not 3"),
        (lambda: WarmupCosine(1.0, -1, 2), r"the warm-up has from 0 to 2 updates \(the whole run\), not -1"),
        (lambda: WarmupCosine(1.0, 1, 2, 1.5), "final_fraction lies from 0 to 1, not 1.5"),
    ],
)
def test_settings_that_cannot_be_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


# Recipes


def test_the_brief_is_the_default() -> None:
    brief = recipe("brief")
    assert brief.adamw == AdamW() == AdamW(0.9, 0.95, 1e-8, 0.01, "all", 0.0)
    assert (brief.lr(1600), brief.warmup, brief.final_fraction, brief.dropout) == (2.5e-4, 2000, 0.0, None)


@pytest.mark.parametrize(
    ("name", "decay", "final_fraction"), [("gpt3", "all", 0.1), ("nanogpt", "matrices", 0.1), ("llmc", "matrices", 0.0)]
)
def test_the_other_recipes_are_as_published(name: str, decay: str, final_fraction: float) -> None:
    other = recipe(name)
    assert (other.adamw.beta1, other.adamw.beta2, other.adamw.epsilon) == (0.9, 0.95, 1e-8)
    assert (other.adamw.weight_decay, other.adamw.decay, other.adamw.clip) == (0.1, decay, 1.0)
    assert (other.lr(768), other.final_fraction, other.dropout) == (6e-4, final_fraction, 0.0)


@pytest.mark.parametrize("name", RECIPES)
def test_wider_models_get_smaller_rates_and_short_runs_less_warm_up(name: str) -> None:
    found = recipe(name)
    assert found.lr(2 * found.at_width) == pytest.approx(found.peak_lr / 2)
    assert (found.warmup_of(10**6), found.warmup_of(100), found.warmup_of(9)) == (found.warmup, 10, 0)
    assert found.source


def test_a_mistyped_recipe_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no recipe 'nanogtp' \(did you mean 'nanogpt'\?\); there are brief, gpt3"):
        recipe("nanogtp")
