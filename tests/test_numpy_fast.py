"""The fast NumPy backend computes what the definitions say, on the reference, and keeps to itself."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import pytest
from gpt2spec_conformance.error import activation_error, gradient_errors, whole_error
from gpt2spec_conformance.weights import weight_set
from gpt2spec_numpy import cores
from gpt2spec_numpy.backend import NumpyBackend
from gpt2spec_numpy.create import create
from gpt2spec_numpy.fast_ops import FastNumpyOps
from gpt2spec_numpy.head import CHUNK
from gpt2spec_numpy.ops import NumpyOps

from gpt2spec.api import logits, loss_and_gradients
from gpt2spec.config import GPT2Config
from gpt2spec.loss import language_model_loss
from gpt2spec.model import Past, cached_forward, empty_cache
from gpt2spec.ops import AdamWScalars, TensorOps
from gpt2spec.optimizer import AdamW, apply_gradients, initial_state, train_step, update_scalars
from gpt2spec.parameters import HostParams
from gpt2spec.tree import tree_leaves

FAST32, FAST64 = create(), create(dtype="float64", mode="fast")
REFERENCE = create(dtype="float64")
CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=16, n_ctx=24, vocab_size=37, dropout=0.0)
LONG = CONFIG.replace(n_layer=1, n_ctx=300)
Batch = Callable[..., tuple[np.ndarray, np.ndarray]]
MakeWeights = Callable[[GPT2Config], HostParams]


# Each override against its definition


@dataclass
class Case:
    """Arguments of a composite: float arrays to differentiate by, then constants."""

    arrays: list[np.ndarray]
    constants: list[Any] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    budget: float = 8.0
    """The allowed error of float32 in epsilons; it is larger where large scores make the function sensitive."""


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def attention(B: int, H: int, T: int, d: int, scale: float = 1.0, budget: float = 8.0) -> Case:
    q, k, v = (normal(B, H, T, d, seed=seed) for seed in range(3))
    return Case([scale * q, scale * k, v], budget=budget)


def head(rows: int, V: int, D: int = 8, scale: float = 1.0, targets: np.ndarray | None = None) -> Case:
    ids = np.random.default_rng(0).integers(0, V, (1, rows)) if targets is None else targets
    return Case([scale * normal(1, rows, D), normal(V, D, seed=1)], [ids], budget=8.0 * max(1.0, scale))


def norm(x: np.ndarray, epsilon: float = 1e-5, budget: float = 8.0) -> Case:
    return Case(
        [x, normal(x.shape[-1], seed=1), normal(x.shape[-1], seed=2)], settings={"epsilon": epsilon}, budget=budget
    )


FLAT_ROWS = normal(3, 4, 16)
FLAT_ROWS[0, 1], FLAT_ROWS[2] = 0.75, 0.0  # zero variance: exactly representable, so that the mean is exact

CASES = {
    "linear": Case([normal(2, 5, 8), normal(8, 12, seed=1), normal(12, seed=2)]),
    "linear, one position": Case([normal(1, 1, 8), normal(8, 12, seed=1), normal(12, seed=2)]),
    "linear, one row of many": Case([normal(700, 3), normal(3, 1, seed=1), normal(1, seed=2)], budget=32.0),
    "linear, transposed operands": Case([normal(5, 2, 8).swapaxes(0, 1), normal(12, 8, seed=1).T, normal(12, seed=2)]),
    "layer_norm": norm(normal(2, 5, 16)),
    "layer_norm, one position": norm(normal(1, 1, 16)),
    "layer_norm, rows without variance": norm(FLAT_ROWS, epsilon=1e-2),
    "layer_norm, far from zero": norm(normal(2, 5, 16) + 100.0, budget=1000.0),
    "layer_norm, tiny beside epsilon": norm(1e-4 * normal(2, 5, 16)),
    "layer_norm, one value wide": norm(normal(2, 5, 1)),
    "layer_norm, transposed": norm(normal(16, 5, 3).T),
    "gelu_tanh": Case([3 * normal(2, 5, 8)]),
    "gelu_tanh, far out": Case([np.array([-30.0, -11.0, -4.0, -1e-6, 0.0, 1e-6, 4.0, 11.0, 1e4])], budget=32.0),
    "gelu_tanh, several pieces": Case([3 * normal(3, cores.PIECE // 2 + 1)]),
    "gelu_tanh, transposed": Case([3 * normal(8, 5, 2).T]),
    "split_heads": Case([normal(2, 5, 24)], [4]),
    "split_heads, one head, one position": Case([normal(2, 1, 24)], [1]),
    "take": Case([normal(11, 4)], [np.array([[0, 10, 3], [4, 5, 6]])], {"axis": 0}),
    "take, repeated": Case([normal(11, 4)], [np.array([[3, 3, 3], [3, 10, 3]])], {"axis": 0}),
    "take, along the second axis": Case([normal(4, 11)], [np.array([3, 3, 0])], {"axis": 1}),
    "take, of three axes": Case([normal(4, 3, 2)], [np.array([3, 3, 0])], {"axis": 0}),
    "causal_attention": attention(2, 2, 9, 8),
    "causal_attention, one position": attention(2, 2, 1, 8),
    "causal_attention, heads of one": attention(1, 3, 5, 1),
    "causal_attention, a full block": attention(1, 1, 128, 4, budget=16.0),
    "causal_attention, one past a block": attention(1, 3, 129, 4, budget=16.0),
    "causal_attention, three blocks": attention(2, 2, 300, 8, budget=16.0),
    "causal_attention, many heads": attention(4, 40, 17, 2, budget=16.0),
    "causal_attention, large scores": attention(2, 2, 33, 8, scale=12.0, budget=2000.0),
    "head_cross_entropy": head(10, 11),
    "head_cross_entropy, one position": head(1, 11),
    "head_cross_entropy, exactly a chunk": head(CHUNK, 7),
    "head_cross_entropy, past a chunk": head(CHUNK + 1, 7),
    "head_cross_entropy, three chunks in pieces": head(2 * CHUNK + 176, 211),
    "head_cross_entropy, long vocabulary": head(CHUNK + 3, 8192 + 5, D=2),
    "head_cross_entropy, one target": head(40, 11, targets=np.full((1, 40), 10)),
    "head_cross_entropy, large logits": head(40, 11, scale=100.0),
    "head_cross_entropy, transposed": Case(
        [normal(3, 5, 8).swapaxes(0, 1), normal(8, 11, seed=1).T], [np.arange(15).reshape(5, 3) % 11]
    ),
}


def evaluate(backend: NumpyBackend, function: Callable[..., Any], case: Case) -> tuple[list[Any], list[np.ndarray]]:
    """The function's results, and the gradients of a weighted sum of them."""
    ops = backend.ops

    def on_device(x: Any) -> Any:
        if not isinstance(x, np.ndarray):
            return x
        permuted = np.argsort(x.strides)[::-1]  # keep the order in memory: `put` would make it C
        return ops.permute_dims(backend.put(x.transpose(permuted)), np.argsort(permuted).tolist())

    arrays, constants = ([on_device(x) for x in xs] for xs in (case.arrays, case.constants))

    def outputs(tree: list[Any]) -> list[Any]:
        y = function(*tree, *constants, **case.settings)
        return list(y) if isinstance(y, tuple) else [y]

    def weighted_sum(tree: list[Any]) -> Any:
        total = 0.0
        for i, y in enumerate(outputs(tree)):
            total = total + ops.sum(y * backend.put(normal(*y.shape, seed=7 + i)), None, keepdims=False)
        return total

    before = [np.array(x) for x in arrays]
    values = [backend.to_numpy(y) for y in outputs(arrays)]
    _, grads = backend.value_and_grad(weighted_sum)(arrays)
    for x, old in zip(arrays, before, strict=True):
        assert (np.asarray(x) == old).all(), "an argument was written to"
    return values, [backend.to_numpy(g) for g in grads]


def rounded(case: Case) -> Case:
    """The case with its values rounded to float32."""
    arrays = [np.asarray(x.astype(np.float32).astype(np.float64)) for x in case.arrays]
    return Case(arrays, case.constants, case.settings, case.budget)


@pytest.mark.parametrize("name", CASES)
def test_overrides_and_their_gradients_agree_with_the_definition(name: str) -> None:
    method, case = name.split(",")[0], rounded(CASES[name])
    assert getattr(FastNumpyOps, method) is not getattr(NumpyOps, method), "not overridden"
    expected = list(chain(*evaluate(REFERENCE, getattr(REFERENCE.ops, method), case)))
    for backend, dtype, budget in ((FAST64, "float64", max(case.budget, 1e3)), (FAST32, "float32", case.budget)):
        found = list(chain(*evaluate(backend, getattr(backend.ops, method), case)))
        assert len(found) == len(expected)
        for f, e in zip(found, expected, strict=True):
            assert f.dtype == dtype
            size, length = math.sqrt(e.size), float(np.linalg.norm(e))
            scale = length if length > 1e-12 * size else size  # with T = 1 the gradient of queries and keys is zero
            error = float(np.linalg.norm(f - e)) / scale / np.finfo(dtype).eps
            assert error < budget, (dtype, error)


def test_every_override_has_cases() -> None:
    covered = {name.split(",")[0] for name in CASES}
    others = {"asarray", "full", "arange", "random_uniform", "cache_write", "__init__"}
    others |= {"global_norm", "accumulate", "adamw_update"}
    overridden = {name for name, value in vars(FastNumpyOps).items() if callable(value)}
    assert overridden - others == covered


def test_gradients_are_added_into_the_totals_only_where_the_state_may_be_overwritten() -> None:
    totals, gradients = (
        [rng.standard_normal(s, np.float32) for s in ((3, 2), (5,))] for rng in map(np.random.default_rng, (0, 1))
    )
    before = [total.copy() for total in totals]
    ops = create(mode="fast").ops
    assert all((x == t + g).all() for x, t, g in zip(ops.accumulate(totals, gradients), before, gradients, strict=True))
    assert all((total == old).all() for total, old in zip(totals, before, strict=True))
    ops.in_place = True
    added = ops.accumulate(totals, gradients)
    assert all(x is total for x, total in zip(added, totals, strict=True))
    assert all((x == old + g).all() for x, old, g in zip(added, before, gradients, strict=True))


def test_results_do_not_share_memory_with_arguments() -> None:
    for name in ("linear", "layer_norm", "gelu_tanh", "causal_attention", "take"):
        case = CASES[name]
        arrays = [FAST32.put(x) for x in case.arrays]
        constants = [FAST32.put(x) for x in case.constants]
        y = getattr(FAST32.ops, name)(*arrays, *constants, **case.settings)
        assert not any(np.shares_memory(y, x) for x in arrays), name


def test_attention_at_a_position_of_its_own_uses_the_definition() -> None:
    q, k, v = (FAST32.put(normal(2, 2, n, 4, seed=n)) for n in (3, 9, 9))
    start = FAST32.put(np.array([5, 1]))
    found = FAST32.ops.causal_attention(q, k, v, start=start)
    assert (found == TensorOps.causal_attention(FAST32.ops, q, k, v, start=start)).all()


def test_pieces_cover_every_row_once_in_order() -> None:
    for rows in (1, 2, 31, 32, 33, 1000):
        everything = list(range(rows))
        pieces = cores.in_pieces(everything.__getitem__, rows, cores.PIECE // 8)
        assert list(chain(*pieces)) == everything
        assert max(map(len, pieces)) <= 8


def test_an_error_in_a_piece_is_raised() -> None:
    def fail(piece: slice) -> None:
        raise ArithmeticError(str(piece.start))

    with pytest.raises(ArithmeticError, match="0"):
        cores.in_pieces(fail, 100, cores.PIECE)


# The whole model

MODELS = {"short": (CONFIG, 3, 9), "one position": (CONFIG, 2, 1), "three blocks": (LONG, 2, 300)}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("dtype", "budget"), [("float32", 24.0), ("float64", 64.0)])
def test_loss_gradients_and_logits_agree_with_the_reference(
    make_weights: MakeWeights, batch: Batch, model: str, dtype: str, budget: float
) -> None:
    config, rows, length = MODELS[model]
    params, (tokens, targets) = make_weights(config), batch(config, rows, length)
    backend = create(dtype=dtype, mode="fast")
    found = logits(backend, config, params, tokens)
    assert found.dtype == dtype
    assert activation_error(found, logits(REFERENCE, config, params, tokens), dtype) < budget
    loss, gradients = loss_and_gradients(backend, config, params, tokens, targets)
    expected_loss, expected = loss_and_gradients(REFERENCE, config, params, tokens, targets)
    assert whole_error(np.array(loss), np.array(expected_loss), dtype) < 4
    assert {gradient.dtype for gradient in gradients.values()} == {np.dtype(dtype)}
    if length == 1:  # queries and keys have no gradient: softmax of one score is 1
        for name in [name for name in params if ".c_attn." in name]:
            queries_and_keys, values = np.split(np.abs(gradients[name]), [2 * config.n_embd], axis=-1)
            # the difference of two equal sums, of the size of the values' gradients, in whatever order BLAS adds
            assert queries_and_keys.max() < budget * np.finfo(dtype).eps * values.max()
            gradients[name][..., : 2 * config.n_embd] = expected[name][..., : 2 * config.n_embd] = 0.0
    errors = gradient_errors(gradients, expected, dtype)
    assert {name: error for name, error in errors.items() if error > budget} == {}


def test_the_loss_alone_is_the_loss_with_gradients(probe: MakeWeights, batch: Batch) -> None:
    params, (tokens, targets) = probe(CONFIG), batch(CONFIG, 3, 9)
    device = FAST32.load_params(params)
    alone = language_model_loss(FAST32.ops, CONFIG, device, FAST32.put(tokens), FAST32.put(targets))
    assert float(alone) == loss_and_gradients(FAST32, CONFIG, params, tokens, targets)[0]


def test_large_logits_give_finite_losses_and_gradients(probe: MakeWeights, batch: Batch) -> None:
    params = {name: 100 * array for name, array in probe(CONFIG).items()}
    tokens, targets = batch(CONFIG, 3, 9)
    found = logits(FAST32, CONFIG, params, tokens)
    assert np.abs(found).max() > 1e4
    loss, gradients = loss_and_gradients(FAST32, CONFIG, params, tokens, targets)
    assert 1e3 < loss < math.inf
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


def train(
    backend: NumpyBackend, config: GPT2Config, params: HostParams, batch: Batch, adamw: AdamW, steps: int
) -> tuple[np.ndarray, dict[str, HostParams]]:
    """Losses and gradient norms, and the final state."""
    state, step = initial_state(backend.ops, backend.load_params(params)), train_step(backend, config, adamw)
    history = []
    for update in range(1, steps + 1):
        arrays = [backend.put(array) for array in batch(config, 2, 9, seed=update)]
        scalars = {k: backend.put(np.array(x)) for k, x in update_scalars(adamw, 1e-2 / update, update).items()}
        key = backend.dropout_key(5, update) if config.dropout or config.attn_dropout else None
        state, metrics = step(state, *arrays, scalars, key)
        history.append([float(metrics["loss"]), float(metrics["grad_norm"])])
    return np.array(history), {name: backend.dump_params(tree) for name, tree in state.items()}


# An epsilon that counts beside the gradients: the rounding of a key bias's gradient, which is zero, decides nothing.
ADAMW = AdamW(epsilon=1e-3, weight_decay=0.1, decay="matrices", clip=0.5)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_eight_train_steps_agree_with_the_reference(make_weights: MakeWeights, batch: Batch, dropout: float) -> None:
    config = CONFIG.replace(dropout=dropout, attn_dropout=dropout / 2)
    params = make_weights(config)
    expected_history, expected = train(REFERENCE, config, params, batch, ADAMW, 8)
    for dtype, budget in (("float64", 1e3), ("float32", 64.0)):
        history, state = train(create(dtype=dtype, mode="fast"), config, params, batch, ADAMW, 8)
        assert whole_error(history, expected_history, dtype) < budget
        for name in ("params", "m", "v"):
            assert list(state[name]) == list(params)
            for weight, array in state[name].items():
                if weight.endswith("c_attn.bias"):
                    continue  # a third of it has no gradient; `whole_error` of the rest is below
                assert whole_error(array, expected[name][weight], dtype) < budget, (name, weight)
        for i in range(config.n_layer):
            weight = f"h.{i}.attn.c_attn.bias"
            assert whole_error(state["params"][weight], expected["params"][weight], dtype) < budget


def test_optimizer_override_agrees_with_the_definition_on_gradients_of_all_sizes() -> None:
    sizes = 10.0 ** np.arange(-14, 3)[:, None]
    settings = {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8}
    for dtype, backend in (("float64", FAST64), ("float32", FAST32)):
        for update in (1, 2, 1000):
            host = [normal(17, 3), normal(17, 3, seed=1) * sizes, normal(17, 3, seed=2) * sizes]
            p, g, m, v = ([x, x[0]] for x in (*host, (host[1] * 3) ** 2))
            scalars: dict[str, float] = {"scale": 0.3, **update_scalars(AdamW(), 0.01, update)}

            def run(
                which: NumpyBackend, function: Callable[..., Any], args: Any = (p, g, m, v), scalars: Any = scalars
            ) -> Any:
                tensors = [[which.put(np.array(x)) for x in column] for column in args]
                numbers = {name: which.put(np.array(x)) for name, x in scalars.items()}
                return function(which.ops, *tensors, [0.1, 0.0], AdamWScalars(**numbers, **settings))

            found, expected = run(backend, FastNumpyOps.adamw_update), run(REFERENCE, TensorOps.adamw_update)
            for f_column, e_column in zip(found, expected, strict=True):
                for f, e in zip(f_column, e_column, strict=True):
                    assert f.dtype == dtype
                    np.testing.assert_allclose(f, np.asarray(e), rtol=16 * np.finfo(dtype).eps, atol=1e-30)


def test_the_optimizer_writes_into_the_state_it_was_given_and_into_nothing_else(
    probe: MakeWeights, batch: Batch
) -> None:
    state = initial_state(FAST32.ops, FAST32.load_params(probe(CONFIG)))
    grads = FAST32.load_params(weight_set("init", CONFIG))
    kept = [np.array(g) for g in tree_leaves(grads)]
    scalars = {name: FAST32.put(np.array(x)) for name, x in update_scalars(ADAMW, 0.01, 1).items()}
    new, _ = apply_gradients(FAST32.ops, ADAMW, state, grads, scalars)
    assert all(a is b for a, b in zip(tree_leaves(new), tree_leaves(state), strict=True))
    assert all((g == k).all() for g, k in zip(tree_leaves(grads), kept, strict=True))


@pytest.mark.parametrize("size", [1, 3, cores.PIECE, 2 * cores.PIECE + 5])
def test_the_global_norm_is_that_of_all_values_together(size: int) -> None:
    arrays = [normal(size), 1e3 * normal(4, 2), normal(5, 3).T]
    for backend, dtype in ((FAST32, "float32"), (FAST64, "float64")):
        found = backend.ops.global_norm([backend.put(a) for a in arrays])
        assert found.dtype == dtype
        expected = math.sqrt(sum(float(np.sum(a.astype(dtype).astype(float) ** 2)) for a in arrays))
        assert whole_error(np.array(found), np.array(expected), dtype) < 4


# Nothing is written to that is not ours


@pytest.mark.parametrize("mode", ["fast", "reference"])
def test_calls_do_not_change_what_they_are_given(probe: MakeWeights, batch: Batch, mode: str) -> None:
    backend, params, (tokens, targets) = create(mode=mode), probe(CONFIG), batch(CONFIG, 2, 9)
    tokens, targets = tokens.astype(np.int32), targets.astype(np.int32)
    before = {name: array.copy() for name, array in params.items()}
    arrays = (tokens.copy(), targets.copy())
    for array in (*params.values(), tokens, targets):
        array.flags.writeable = False
    logits(backend, CONFIG, params, tokens)
    loss_and_gradients(backend, CONFIG, params, tokens, targets)
    train(backend, CONFIG, params, batch, ADAMW, 2)
    assert all((params[name] == before[name]).all() for name in params)
    assert (tokens == arrays[0]).all()
    assert (targets == arrays[1]).all()


def test_gradients_stay_as_they_are_whatever_comes_later(probe: MakeWeights, batch: Batch) -> None:
    params, (tokens, targets) = FAST32.load_params(probe(CONFIG)), batch(CONFIG, 2, 9)
    run = FAST32.value_and_grad(lambda p, t, y: language_model_loss(FAST32.ops, CONFIG, p, t, y))
    _, grads = run(params, FAST32.put(tokens), FAST32.put(targets))
    leaves = tree_leaves(grads)
    kept = [np.array(leaf) for leaf in leaves]
    others = [*leaves, *tree_leaves(params)]
    for i, leaf in enumerate(leaves):
        assert not any(np.shares_memory(leaf, other) for j, other in enumerate(others) if i != j)
    _, again = run(params, FAST32.put(targets), FAST32.put(tokens))
    train(FAST32, CONFIG, probe(CONFIG), batch, ADAMW, 2)
    assert all((leaf == k).all() for leaf, k in zip(leaves, kept, strict=True))
    assert any((a != b).any() for a, b in zip(leaves, tree_leaves(again), strict=True))


def test_metrics_and_dumped_weights_stay_when_the_state_is_updated(probe: MakeWeights, batch: Batch) -> None:
    state, step = initial_state(FAST32.ops, FAST32.load_params(probe(CONFIG))), train_step(FAST32, CONFIG, ADAMW)
    arrays = [FAST32.put(array) for array in batch(CONFIG, 2, 9)]
    seen = []
    for update in (1, 2, 3):
        scalars = {name: FAST32.put(np.array(x)) for name, x in update_scalars(ADAMW, 0.01, update).items()}
        state, metrics = step(state, *arrays, scalars, None)
        seen.append((metrics["loss"], float(metrics["loss"]), FAST32.dump_params(state["params"])["wte.weight"]))
    assert [float(tensor) for tensor, _, _ in seen] == [number for _, number, _ in seen]
    assert seen[0][1] > seen[1][1] > seen[2][1]
    assert (seen[0][2] != seen[1][2]).any()


def test_a_shared_tensor_gets_the_sum_of_its_gradients() -> None:
    """The tape adds in place, but only to its own arrays."""
    x = normal(4, 6)
    ones = (normal(6, 6, seed=1), normal(6, seed=2))

    def total(backend: NumpyBackend) -> Callable[[list[Any]], Any]:
        ops = backend.ops

        def run(tree: list[Any]) -> Any:
            x, w, b = tree
            y = ops.linear(x, w, b)
            z = y + ops.gelu_tanh(y) + ops.linear(y, w, b) + ops.layer_norm(y, b, b, 1e-5) + x
            return ops.sum(z * z + ops.take(w, backend.put(np.array([1, 1, 0, 5])), 0) * x, None, keepdims=False)

        return run

    results = []
    for backend in (FAST64, REFERENCE):
        tree = [backend.put(a) for a in (x, *ones)]
        results.append(backend.value_and_grad(total(backend))(tree)[1])
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, np.asarray(expected), rtol=1e-10)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("shared", [0, 1])
def test_gradients_that_begin_as_one_array_do_not_run_into_each_other(shared: int, first: bool) -> None:
    """Both gradients of a + b are one array; what is added to one must not appear in the other."""
    ops = FAST64.ops

    def total(tree: list[Any]) -> Any:
        own = 3.0 * tree[shared]
        return ops.sum(own + (tree[0] + tree[1]) if first else (tree[0] + tree[1]) + own, None, keepdims=False)

    _, grads = FAST64.value_and_grad(total)([FAST64.put(normal(2, 3)), FAST64.put(normal(2, 3))])
    assert (grads[shared] == 4.0).all()
    assert (grads[1 - shared] == 1.0).all()


# The cache


class Decoder:
    """A cache whose rows are at different positions."""

    def __init__(self, backend: NumpyBackend, params: HostParams, rows: int, capacity: int) -> None:
        self.backend, self.params = backend, backend.load_params(params)
        self.cache = empty_cache(backend.ops, CONFIG, rows, capacity)

    def __call__(self, tokens: np.ndarray, start: list[int], length: int) -> np.ndarray:
        put = self.backend.put
        past = Past(self.cache, put(np.array(start)), length)
        self.cache, found = cached_forward(self.backend.ops, CONFIG, self.params, past, put(tokens))
        return self.backend.to_numpy(found)


@pytest.mark.parametrize("backend", [FAST32, REFERENCE], ids=["fast", "reference"])
@pytest.mark.parametrize("prompt", [1, 7, 23])
def test_prompt_and_single_steps_give_the_logits_of_the_whole(
    make_weights: MakeWeights, batch: Batch, backend: NumpyBackend, prompt: int
) -> None:
    """They agree at every position of the context, while ever more of the cache is read."""
    params, (tokens, _) = make_weights(CONFIG), batch(CONFIG, 2, 24)
    feed = Decoder(backend, params, rows=2, capacity=24)
    found = [feed(tokens[:, :prompt], [0, 0], prompt)]
    for place in range(prompt, 24):
        length = min(24, place + 1 + place % 4)  # sometimes exactly enough, sometimes more
        found.append(feed(tokens[:, place : place + 1], [place, place], length))
    expected = logits(REFERENCE, CONFIG, params, tokens)
    assert activation_error(np.concatenate(found, 1), expected, backend.dtype) < (16 if backend is FAST32 else 64)


@pytest.mark.parametrize("backend", [FAST32, REFERENCE], ids=["fast", "reference"])
def test_rows_at_different_positions_and_padding_do_not_matter(
    make_weights: MakeWeights, batch: Batch, backend: NumpyBackend
) -> None:
    params, (tokens, _) = make_weights(CONFIG), batch(CONFIG, 3, 24)
    expected = logits(REFERENCE, CONFIG, params, tokens)
    budget = 16 if backend is FAST32 else 64
    lengths = np.array([2, 9, 5])
    prompts = tokens[:, :9].copy()
    for padding in (0, 36):
        for row, n in enumerate(lengths):
            prompts[row, n:] = padding
        feed = Decoder(backend, params, rows=3, capacity=20)
        found = feed(prompts, [0, 0, 0], 12)
        for row, n in enumerate(lengths):
            assert activation_error(found[row, :n], expected[row, :n], backend.dtype) < budget
        for step in range(8):
            start = lengths + step
            found = feed(tokens[np.arange(3), start][:, None], start.tolist(), 20)
            assert activation_error(found[:, 0], expected[np.arange(3), start], backend.dtype) < budget


def test_slots_beyond_a_row_are_invisible(probe: MakeWeights, batch: Batch) -> None:
    """A cache may hold anything from another text, and any part of it may be read."""
    params, (tokens, _) = probe(CONFIG), batch(CONFIG, 2, 24)
    fresh, stale = (Decoder(REFERENCE, params, rows=2, capacity=24) for _ in range(2))
    stale(tokens[::-1], [0, 0], 24)
    for feed in (fresh, stale):
        feed(tokens[:, :5], [0, 0], 5)
    expected = fresh(tokens[:, 5:7], [5, 5], 7)
    for length in (7, 8, 24):
        assert activation_error(stale(tokens[:, 5:7], [5, 5], length), expected, "float64") < 64


@pytest.mark.parametrize("start", [None, [2, 0]], ids=["fresh", "rows of their own"])
def test_the_cache_is_written_in_place_in_updates_only(start: list[int] | None) -> None:
    cache, new = FAST64.put(normal(2, 3, 9, 4)), FAST64.put(normal(2, 3, 5, 4, seed=1))
    first = None if start is None else FAST64.put(np.array(start))
    expected = REFERENCE.ops.cache_write(REFERENCE.put(cache), REFERENCE.put(new), start and REFERENCE.put(first))
    before = cache.copy()
    written = FAST64.ops.cache_write(cache, new, first)
    np.testing.assert_array_equal(written, expected)
    np.testing.assert_array_equal(cache, before)
    updated, _ = FAST64.jit_update(lambda state: (FAST64.ops.cache_write(state, new, first), None))(cache)
    np.testing.assert_array_equal(updated, expected)
    assert updated is cache
    assert not FAST64.ops.in_place


def test_an_empty_cache_is_zero_and_of_the_compute_dtype() -> None:
    cache = empty_cache(FAST32.ops, CONFIG, 3, 10)
    assert [sorted(layer) for layer in cache] == [["k", "v"]] * 2
    for leaf in tree_leaves(cache):
        assert (leaf.shape, leaf.dtype) == ((3, 2, 10, 8), np.float32)
        assert not leaf.any()


# Dropout

BACKENDS = pytest.mark.parametrize("backend", [FAST32, create(mode="reference")], ids=["fast", "reference"])


@BACKENDS
def test_dropout_keeps_its_share_scales_it_up_and_masks_the_gradient_alike(backend: NumpyBackend) -> None:
    x, key = np.abs(normal(100, 100)) + 1, backend.dropout_key(3, 4)
    for rate in (0.1, 0.5, 0.9):

        def total(tree: list[Any], rate: float = rate) -> Any:
            return backend.ops.sum(backend.ops.dropout(tree[0], rate, key), None, keepdims=False)

        y = backend.to_numpy(backend.ops.dropout(backend.put(x), rate, key))
        assert abs((y != 0).mean() - (1 - rate)) < 4 * math.sqrt(rate * (1 - rate) / 10_000)
        np.testing.assert_allclose(y[y != 0], (x / (1 - rate))[y != 0], rtol=1e-6)
        _, (gradient,) = backend.value_and_grad(total)([backend.put(x)])
        np.testing.assert_allclose(backend.to_numpy(gradient), np.where(y != 0, 1 / (1 - rate), 0), rtol=1e-6)


@BACKENDS
def test_nothing_is_dropped_without_a_key_or_a_rate(backend: NumpyBackend) -> None:
    x = backend.put(normal(3, 4))
    assert backend.ops.dropout(x, 0.5, None) is x
    assert backend.ops.dropout(x, 0.0, backend.dropout_key(0, 1)) is x


def dropout_masks(config: GPT2Config, seed: int, step: int) -> dict[tuple[Any, ...], np.ndarray]:
    """The uniform numbers of every dropout in one forward pass, with their keys."""
    seen: dict[tuple[Any, ...], np.ndarray] = {}

    class Recorder(FastNumpyOps):
        def random_uniform(self, key: Any, shape: Any) -> Any:
            assert key not in seen, "two dropouts have the same key"
            seen[key] = super().random_uniform(key, shape)
            return seen[key]

    backend = create()
    backend.ops = Recorder("float32")
    params = backend.load_params(weight_set("probe", config))
    tokens = backend.put(np.zeros((2, 9), int))
    language_model_loss(backend.ops, config, params, tokens, tokens, backend.dropout_key(seed, step))
    return seen


def test_every_site_layer_step_and_seed_drops_for_itself() -> None:
    """The sites are the embedding sum, and in each layer the attention's weights and both residual branches."""
    config = CONFIG.replace(dropout=0.1, attn_dropout=0.1)
    masks = [m for key in ((1, 1), (1, 2), (2, 1), (2**40, 1)) for m in dropout_masks(config, *key).values()]
    assert [m.shape for m in masks[:7]] == [(2, 9, 16), *[(2, 2, 9, 9), (2, 9, 16), (2, 9, 16)] * 2]
    assert len(masks) == 4 * 7
    flat = [mask.ravel()[:288] for mask in masks]
    correlation = np.corrcoef(flat) - np.eye(len(flat))
    assert np.abs(correlation).max() < 5 / math.sqrt(288)


def test_rates_decide_which_sites_there_are() -> None:
    assert len(dropout_masks(CONFIG.replace(dropout=0.1), 0, 1)) == 1 + 2 * 2
    assert len(dropout_masks(CONFIG.replace(attn_dropout=0.1), 0, 1)) == 2
    assert len(dropout_masks(CONFIG, 0, 1)) == 0


@BACKENDS
@pytest.mark.parametrize("rates", [{"dropout": 0.3}, {"attn_dropout": 0.3}], ids=str)
def test_a_step_with_dropout_repeats_and_its_gradients_are_slopes(
    probe: MakeWeights, batch: Batch, backend: NumpyBackend, rates: dict[str, float]
) -> None:
    exact = create(dtype="float64", mode=backend.mode)
    config, params = CONFIG.replace(**rates), probe(CONFIG)
    tokens, targets = (exact.put(array) for array in batch(config, 2, 6))

    def loss(weights: Any, seed: int, step: int) -> Any:
        return language_model_loss(exact.ops, config, weights, tokens, targets, exact.dropout_key(seed, step))

    def at(h: float, seed: int = 0, step: int = 1) -> float:
        moved = {name: array.astype(float) + h * direction[name] for name, array in params.items()}
        return float(loss(exact.load_params(moved), seed, step))

    direction = {name: 0.1 * normal(*array.shape, seed=i) for i, (name, array) in enumerate(params.items())}
    assert at(0.0) == at(0.0)
    assert len({at(0.0), at(0.0, step=2), at(0.0, seed=1)}) == 3
    undropped = float(language_model_loss(exact.ops, config, exact.load_params(params), tokens, targets))
    assert abs(at(0.0) - undropped) > 1e-3
    _, grads = exact.value_and_grad(loss)(exact.load_params(params), 0, 1)
    along = sum(float(np.sum(g * direction[name])) for name, g in exact.dump_params(grads).items())
    assert (at(1e-6) - at(-1e-6)) / 2e-6 == pytest.approx(along, rel=1e-6)


def test_dropped_attention_weights_are_scaled_after_softmax() -> None:
    q, k, v = (REFERENCE.put(normal(1, 1, 4, 3, seed=seed)) for seed in range(3))
    found = REFERENCE.ops.causal_attention(q, k, v, dropout=0.5, key=(1, 2))
    kept = np.asarray(REFERENCE.ops.random_uniform((1, 2), (1, 1, 4, 4))) >= 0.5
    identity = REFERENCE.put(np.eye(4)[None, None])
    weights = np.asarray(REFERENCE.ops.causal_attention(q, k, identity))
    np.testing.assert_allclose(np.asarray(found), (weights * kept / 0.5) @ np.asarray(v), rtol=1e-12, atol=1e-15)


def test_leaving_one_core_in_any_order_gives_blas_its_threads_back() -> None:
    def threads() -> list[int]:
        return [library.get_num_threads() for library in cores._blas]

    before = threads()
    first, second = cores.one_core(), cores.one_core()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert threads() == [1] * len(before)
    second.__exit__(None, None, None)
    assert threads() == before
