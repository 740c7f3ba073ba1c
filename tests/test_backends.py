"""PyTorch, JAX and tinygrad against the float64 NumPy reference, in units of float32's epsilon.

What the conformance suite asks of a backend is not asked again here (see test_conformance): these tests hold what goes
beyond it, such as gradients of single operations, several ways of compiling, and other dtypes.

A framework that is not installed skips its tests, except where the variable CI is "true": there it fails them.
tinygrad and compiled PyTorch take seconds for each program, so the tests share programs and models are tiny.
"""

import importlib
import math
import os
import subprocess
from functools import cache

import numpy as np
import pytest
from gpt2spec_conformance import BackendSubject
from gpt2spec_numpy.create import create as create_numpy

from gpt2spec.config import GPT2Config
from gpt2spec.errors import BackendError
from gpt2spec.loss import language_model_loss
from gpt2spec.model import Past, cached_forward, empty_cache
from gpt2spec.ops import AdamWScalars, TensorOps
from gpt2spec.optimizer import AdamW, initial_state, train_step, update_scalars
from gpt2spec.parameters import initial_parameters, weight_table
from gpt2spec.tree import named_leaves

CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=32, n_ctx=32, vocab_size=61, dropout=0.0)
SMALL = CONFIG.replace(n_layer=1)
DROPOUT = CONFIG.replace(n_layer=1, dropout=0.3, attn_dropout=0.2)
ROWS, LENGTH = 2, 17
# An epsilon that counts beside these gradients: with 1e-8 the rounding of a key bias's gradient, whose true
# value is zero, would decide where that bias goes.
ADAMW = AdamW(epsilon=1e-3, weight_decay=0.1, decay="matrices", clip=1.0)
EPSILON = 2.0**-23
BFLOAT16_EPSILON = 2.0**-8

NAMES = ("torch", "torch-step", "torch-eager", "jax", "tinygrad")
FRAMEWORKS = {"torch-step": "torch", "torch-eager": "torch"}
OPTIONS = {"torch-step": {"compile": "step"}, "torch-eager": {"compile": False}}


# ---------------------------------------------------------------------- what is compared


def probe_parameters():
    """Large weights, random biases and gains: here bugs show that a fresh model hides."""
    r = np.random.default_rng(7)
    fresh = initial_parameters(CONFIG, seed=1)
    return {name: (w + 0.3 * r.standard_normal(w.shape)).astype(np.float32) for name, w in fresh.items()}


WEIGHTS = {"init": initial_parameters(CONFIG, seed=1), "probe": probe_parameters()}
TOKENS, TARGETS = np.random.default_rng(3).integers(0, CONFIG.vocab_size, (2, ROWS, LENGTH))


def put(subject, *arrays):
    return [subject.backend.put(array) for array in arrays]


def host(subject, *tensors):
    return [subject.backend.to_numpy(x).astype(np.float64) for x in tensors]


def loss_and_gradients(subject, weights, config=CONFIG):
    """The loss and every gradient, of as many layers as the configuration has."""
    names = {weight.name for weight in weight_table(config)}
    params = {name: w for name, w in WEIGHTS[weights].items() if name in names}
    return subject.loss_and_gradients(config, params, TOKENS, TARGETS)


@pytest.fixture(scope="module")
def reference():
    return BackendSubject(create_numpy(dtype="float64"))


def make(name, **options):
    framework = FRAMEWORKS.get(name, name)
    try:
        importlib.import_module(framework)
    except ImportError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{framework} must be installed here: {error}")
        pytest.skip(f"{framework} is not installed")
    return importlib.import_module(f"gpt2spec_{framework}.create").create(
        device="cpu", **OPTIONS.get(name, {}), **options
    )


@pytest.fixture(scope="module", params=NAMES)
def subject(request):
    return BackendSubject(make(request.param))


@pytest.fixture(scope="module", params=[name for name in NAMES if name not in ("torch", "torch-step")])
def eager(request):
    """Without compiled PyTorch: for what makes many small programs."""
    return BackendSubject(make(request.param))


def error(found, expected, rows=False):
    """Euclidean distance relative to the expected length, of the worst row or of the whole, in epsilons."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    axis = -1 if rows else None
    return float(np.max(np.linalg.norm(found - expected, axis=axis) / np.linalg.norm(expected, axis=axis))) / EPSILON


def gradient_errors(found, expected):
    """The error of each weight; queries, keys and values by themselves.

    A key bias adds the same to all scores of a query, so its true gradient is zero: what is found instead is
    measured against the values' bias.
    """
    errors = {}
    for name, gradient in expected.items():
        if "c_attn" not in name:
            errors[name] = error(found[name], gradient)
            continue
        for part, f, e in zip("qkv", np.split(found[name], 3, -1), np.split(gradient, 3, -1), strict=True):
            scale = np.linalg.norm(np.split(gradient, 3, -1)[2] if name.endswith("bias") and part == "k" else e)
            errors[f"{name} {part}"] = float(np.linalg.norm(f - e) / scale) / EPSILON
    return errors


# ---------------------------------------------------------------------- the model


@cache
def compiled_step(backend):
    return train_step(backend, CONFIG, ADAMW)


def train(subject, steps):
    """Losses, gradient norms and weights after some steps, each on other tokens."""
    backend = subject.backend
    step = compiled_step(backend)
    state = initial_state(backend.ops, backend.load_params(WEIGHTS["probe"]))
    history = []
    for update in range(1, steps + 1):
        scalars = update_scalars(ADAMW, lr=1e-2 / update, update=update)
        scalars = {name: backend.put(np.array(x)) for name, x in scalars.items()}
        tokens = put(subject, np.roll(TOKENS, update), np.roll(TARGETS, update))
        state, metrics = step(state, *tokens, scalars, None)
        history.append(metrics)
    history = [host(subject, metrics["loss"], metrics["grad_norm"]) for metrics in history]
    return np.array(history), backend.dump_params(state["params"])


@pytest.mark.parametrize("steps", [1, 8])
def test_train_steps_agree_with_the_reference(subject, reference, steps):
    history, weights = train(subject, steps)
    expected_history, expected = train(reference, steps)
    assert error(history[:, 0], expected_history[:, 0]) < 16
    assert error(history[:, 1], expected_history[:, 1]) < 64
    assert {name: e for name in expected if (e := error(weights[name], expected[name])) > 32} == {}


def test_parameters_come_back_in_float32(eager):
    host = eager.backend.dump_params(eager.backend.load_params(WEIGHTS["probe"]))
    assert {name: array.dtype for name, array in host.items() if array.dtype != np.float32} == {}


def test_cached_decoding_gives_the_logits_of_the_whole_sequence(subject, reference):
    """Row 0 stands 5 positions ahead of row 1: a prompt each, further tokens in one piece, then token by token."""
    starts, prompt = np.array([5, 0]), 6
    text = np.random.default_rng(5).integers(0, CONFIG.vocab_size, (ROWS, 17))
    backend = subject.backend
    params = backend.decoding_params(backend.load_params(WEIGHTS["probe"]))
    cache = empty_cache(backend.ops, CONFIG, ROWS, 32)
    rows = np.arange(ROWS)[:, None]

    @backend.jit_update
    def read_prompts(cache, params, tokens):
        return cached_forward(backend.ops, CONFIG, params, Past(cache, None, prompt), tokens)

    @backend.jit_update
    def read_on(cache, params, tokens, start):
        return cached_forward(backend.ops, CONFIG, params, Past(cache, start, 24), tokens)

    def feed(cache, start, length):
        tokens = text[rows, start[:, None] + np.arange(length)]
        cache, logits = read_on(cache, params, *put(subject, tokens, start))
        return cache, host(subject, logits)[0]

    cache, _ = read_prompts(cache, params, *put(subject, text[:, :prompt]))
    cache, logits = feed(cache, starts, prompt)  # row 1 writes its prompt again
    found = [[*row] for row in logits]
    for i in range(prompt, 12):
        cache, logits = feed(cache, starts + i, 1)
        for b in range(ROWS):
            found[b].append(logits[b, 0])
    expected = reference.logits(CONFIG, WEIGHTS["probe"], text)
    for b, start in enumerate(starts):
        assert error(found[b], expected[b, start : start + 12], rows=True) < 16


# ---------------------------------------------------------------------- overrides against definitions


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _attention(T, S, start=None):
    q, k, v = _normal(2, 2, T, 8), _normal(2, 2, S, 8, seed=1), _normal(2, 2, S, 8, seed=2)
    return [q, k, v], {} if start is None else {"start": np.array(start)}


COMPOSITES = {
    "linear": ([_normal(2, 5, 8), _normal(8, 12), _normal(12)], {}),
    "layer_norm": ([_normal(2, 5, 8) + 3, _normal(8), _normal(8)], {"epsilon": 1e-5}),
    "gelu_tanh": ([3 * _normal(2, 5, 8)], {}),
    "softmax": ([5 * _normal(2, 5, 8)], {}),
    "causal_attention": _attention(9, 9),
    "causal_attention, long": _attention(150, 150),
    "causal_attention, ragged": _attention(3, 9, [5, 2]),
    "unembed": ([_normal(2, 5, 8), _normal(11, 8)], {}),
    "log_sum_exp": ([5 * _normal(2, 5, 8)], {}),
    "cross_entropy": ([_normal(2, 5, 8), np.arange(10).reshape(2, 5) % 8], {}),
    "head_cross_entropy": ([_normal(1, 700, 8), _normal(11, 8), np.arange(700).reshape(1, 700) % 11], {}),
    "cache_write": ([_normal(2, 2, 9, 4), _normal(2, 2, 3, 4), np.array([6, 1])], {}),
    "cache_write, first slots": ([_normal(2, 2, 9, 4), _normal(2, 2, 3, 4)], {"start": None}),
}


@pytest.mark.parametrize("case", COMPOSITES)
def test_overridden_composites_and_their_gradients_agree_with_the_definition(eager, case):
    name = case.split(",")[0]
    arrays, settings = COMPOSITES[case]
    differentiable = [a for a in arrays if a.dtype == np.float32]
    constants = {key: put(eager, x)[0] if isinstance(x, np.ndarray) else x for key, x in settings.items()}
    rest = put(eager, *(a for a in arrays if a.dtype != np.float32))

    def weighted_sum(function):
        def evaluate(tensors, rest, constants):
            y = function(*tensors, *rest, **constants)
            size = math.prod(y.shape)
            weights = (eager.backend.ops.astype(eager.backend.ops.arange(size), "float32") + 1.0) / size
            return eager.backend.ops.sum(y * eager.backend.ops.reshape(weights, y.shape), None, keepdims=False)

        run = eager.backend.value_and_grad(lambda tensors, rest: evaluate(tensors, rest, constants))
        value, grads = eager.backend.jit(run)(put(eager, *differentiable), rest)
        return host(eager, value, *grads)

    found = weighted_sum(getattr(eager.backend.ops, name))
    expected = weighted_sum(lambda *args, **kwargs: getattr(TensorOps, name)(eager.backend.ops, *args, **kwargs))
    for f, e in zip(found, expected, strict=True):
        assert np.linalg.norm(f - e) / max(np.linalg.norm(e), 1e-2) / EPSILON < 100


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("update", [1, 7, 300])
def test_optimizer_agrees_with_the_definition_on_gradients_of_all_sizes(eager, reference, update, clip):
    def run(subject, function):
        ops, dtype = subject.backend.ops, subject.backend.ops.reduce_dtype
        sizes = 10.0 ** np.arange(-14, 3)[:, None]
        arrays = [_normal(17, 3), _normal(17, 3, seed=1) * sizes, _normal(17, 3, seed=2) * sizes]
        p, g, m = ([ops.asarray(a, dtype), ops.asarray(a[0], dtype)] for a in arrays)
        v = [x * x for x in g]
        scale = 1.0 if clip is None else ops.asarray(np.array(clip), dtype)
        scalars = {name: ops.asarray(np.array(x), dtype) for name, x in update_scalars(ADAMW, 0.1, update).items()}
        numbers = AdamWScalars(scale=scale, **scalars, beta1=ADAMW.beta1, beta2=ADAMW.beta2, epsilon=1e-8)
        updated = function(ops, p, g, m, v, [0.1, 0.0], numbers)
        return [host(subject, *column) for column in updated]

    found = run(eager, type(eager.backend.ops).adamw_update)
    expected = run(reference, TensorOps.adamw_update)
    for found_column, expected_column in zip(found, expected, strict=True):
        for f, e in zip(found_column, expected_column, strict=True):
            np.testing.assert_allclose(f, e, rtol=24 * EPSILON, atol=2 * EPSILON * min(1.0, np.abs(e).max()))


PRIMITIVES = {
    "arange": lambda ops, x, i: ops.arange(4) + i,
    "take": lambda ops, x, i: ops.take(x, i, 1),
    "take_along_axis": lambda ops, x, i: ops.take_along_axis(x, i[:, :, None] + 0 * ops.argsort(x, 2, False), 1),
    "concat": lambda ops, x, i: ops.concat([x, x * 2.0], 1),
    "argmax of ties": lambda ops, x, i: ops.argmax(ops.where(x > 0.0, 1.0, x), 2),
    "cumulative_sum": lambda ops, x, i: ops.cumulative_sum(x, 1),
    "cumulative_sum of whole numbers": lambda ops, x, i: ops.cumulative_sum(i, 1),
    "sum of whole numbers": lambda ops, x, i: ops.sum(i, 1, False),
    "sort descending": lambda ops, x, i: ops.sort(x, 1, True),
    "argsort of ties": lambda ops, x, i: ops.argsort(ops.where(x > 0.0, 1.0, x), 2, False),
    "argsort of ties descending": lambda ops, x, i: ops.argsort(ops.where(x > 0.0, 1.0, x), 2, True),
    "max": lambda ops, x, i: ops.max(x, 1, True),
}


@pytest.mark.parametrize("case", PRIMITIVES)
def test_primitives_do_as_the_reference_does(eager, reference, case):
    x, i = _normal(3, 4, 7), np.random.default_rng(0).integers(0, 4, (3, 4))

    def run(subject):
        result = subject.backend.jit(lambda x, i: PRIMITIVES[case](subject.backend.ops, x, i))(*put(subject, x, i))
        return subject.backend.to_numpy(result)

    found, expected = run(eager), run(reference)
    if expected.dtype.kind == "i":
        assert found.dtype == np.int32
        assert (found == expected).all()
    else:
        assert found.dtype == np.float32
        assert error(found, expected) < 4


# ---------------------------------------------------------------------- randomness


def test_dropout_is_the_same_for_the_same_seed_and_step_only(eager):
    backend = eager.backend
    params = backend.load_params(initial_parameters(DROPOUT))
    batch = put(eager, TOKENS, TARGETS)
    run = backend.jit(lambda p, t, y, key: language_model_loss(eager.backend.ops, DROPOUT, p, t, y, key))

    def loss(seed, step):
        return float(host(eager, run(params, *batch, backend.dropout_key(seed, step)))[0])

    first = loss(0, 1)
    others = [loss(0, 2), loss(1, 1), loss(2**40, 1)]
    assert loss(0, 1) == first
    assert len({first, *others}) == 4


def test_uniform_numbers_are_uniform_and_differ_between_keys(eager):
    ops, key = eager.backend.ops, eager.backend.dropout_key(0, 1)
    a = host(eager, ops.random_uniform(ops.fold_in(key, 0), (64, 64)))[0]
    b = host(eager, ops.random_uniform(ops.fold_in(key, 1), (64, 64)))[0]
    for x in (a, b):
        assert 0 <= x.min() < 0.01 < 0.99 < x.max() < 1
        assert abs(x.mean() - 0.5) < 0.02
        assert abs(x.std() - 12**-0.5) < 0.02
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.1


# ---------------------------------------------------------------------- transforms


def test_a_compiled_function_follows_its_inputs_and_keeps_earlier_results(subject):
    run = subject.backend.jit(lambda x, y: {"sum": x + y, "parts": [x * 2.0, y]})
    inputs = [(_normal(4, seed=i), _normal(4, seed=9 - i)) for i in range(4)]
    results = [run(*put(subject, x, y)) for x, y in inputs]
    for (x, y), result in zip(inputs, results, strict=True):
        np.testing.assert_array_equal(subject.backend.to_numpy(result["sum"]), x + y)
        np.testing.assert_array_equal(subject.backend.to_numpy(result["parts"][0]), x * 2)
        np.testing.assert_array_equal(subject.backend.to_numpy(result["parts"][1]), y)


def test_a_compiled_function_takes_one_tensor_twice_and_other_shapes(subject):
    run = subject.backend.jit(lambda x, y: x * y)
    for n in (3, 5, 3):
        (x,) = put(subject, _normal(n))
        np.testing.assert_array_equal(subject.backend.to_numpy(run(x, x)), _normal(n) ** 2)


def test_an_update_changes_the_state_each_time(subject):
    """Entries that depend on each other's old values, as weights and moments do; some only change places."""

    def update(s, x):
        return {"n": s["n"] + s["sum"] + x, "sum": s["n"] - s["sum"], "a": s["b"], "b": s["a"]}, s["n"] * 1.0

    def expected():
        n, total, a, b = 1.0, 2.0, 3.0, 4.0
        for i in range(5):
            yield n
            n, total, a, b = n + total + i, n - total, b, a
        yield {"n": n, "sum": total, "a": a, "b": b}

    run = subject.backend.jit_update(update)
    state = dict(zip(("n", "sum", "a", "b"), put(subject, *(np.full(3, x) for x in (1.0, 2.0, 3.0, 4.0))), strict=True))
    seen = []
    for i in range(5):
        state, before = run(state, *put(subject, np.full(3, float(i))))
        seen.append(before)
    *before, last = expected()
    assert [subject.backend.to_numpy(x)[0] for x in seen] == before
    assert {name: subject.backend.to_numpy(x)[0] for name, x in state.items()} == last


def test_jax_compiles_once_for_each_shape():
    backend = make("jax")
    import jax

    lowered, traced = [], []

    def count(event, seconds, **_):
        if event == "/jax/core/compile/jaxpr_to_mlir_module_duration":
            lowered.append(event)

    value_and_grad = backend.value_and_grad(
        lambda params, tokens, targets: language_model_loss(backend.ops, CONFIG, params, tokens, targets)
    )

    def step(state, tokens, targets):
        traced.append(tokens.shape)
        value, grads = value_and_grad(state, tokens, targets)
        return jax.tree.map(lambda p, g: p - 0.1 * g, state, grads), value

    run = backend.jit_update(step)
    state = backend.load_params(WEIGHTS["init"])
    batches = [(backend.put(TOKENS[:, :n]), backend.put(TARGETS[:, :n])) for n in (9, 9, 9, 11, 9, 11)]
    backend.synchronize()
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        for batch in batches:
            state, _ = run(state, *batch)
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert [shape[1] for shape in traced] == [9, 11]
    assert len(lowered) == 2


@pytest.mark.parametrize("name", ["torch-eager", "jax"])
def test_the_head_never_holds_the_logits_of_all_rows(name, monkeypatch):
    """Seen in the program: no value has more than CHUNK rows of the vocabulary's size."""
    backend = make(name)
    head = importlib.import_module(f"gpt2spec_{FRAMEWORKS.get(name, name)}.head")
    monkeypatch.setattr(head, "CHUNK", 16 if name == "jax" else 16 * 211 * 4)  # rows, or bytes of float32
    x, wte, targets = map(backend.put, (_normal(1, 64, 8), _normal(211, 8), np.zeros((1, 64), int)))
    run = backend.value_and_grad(lambda tensors: backend.ops.head_cross_entropy(*tensors, targets))
    sizes = tensor_sizes_torch(run, [x, wte]) if name == "torch-eager" else tensor_sizes_jax(run, [x, wte])
    assert 16 * 211 in sizes
    assert max(sizes) == 16 * 211


def tensor_sizes_torch(run, tensors):
    from torch import Tensor
    from torch.utils._python_dispatch import TorchDispatchMode

    class Sizes(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.seen = set()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            self.seen |= {x.numel() for x in [result] if isinstance(x, Tensor)}
            return result

    with Sizes() as sizes:
        run(tensors)
    return sizes.seen


def tensor_sizes_jax(run, tensors):
    import jax
    from jax.extend.core import jaxprs_in_params

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (math.prod(out.aval.shape) for out in equation.outvars)
            for inner in jaxprs_in_params(equation.params):
                yield from sizes(inner)

    return set(sizes(jax.make_jaxpr(run)(tensors).jaxpr))


# ---------------------------------------------------------------------- precisions


@pytest.mark.parametrize("name", ["torch-eager", "jax", "tinygrad"])
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights(name, reference):
    subject = BackendSubject(make(name, dtype="bfloat16"))
    loss, gradients = loss_and_gradients(subject, "probe", SMALL)
    expected_loss, expected = loss_and_gradients(reference, "probe", SMALL)
    scale = BFLOAT16_EPSILON / EPSILON
    assert error(loss, expected_loss) < 2 * scale
    worst = max(gradient_errors(gradients, expected).values()) / scale
    assert 0.5 < worst < 24
    params = subject.backend.load_params(WEIGHTS["probe"])
    assert all("float" in str(x.dtype) and "bfloat16" not in str(x.dtype) for _, x in named_leaves(params))
    assert all(gradient.dtype == np.float32 for gradient in gradients.values())


@pytest.mark.parametrize("name", ["torch-eager", "jax", "tinygrad"])
def test_float64_agrees_to_float64_precision(name, reference):
    loss, gradients = loss_and_gradients(BackendSubject(make(name, dtype="float64")), "probe", SMALL)
    expected_loss, expected = loss_and_gradients(reference, "probe", SMALL)
    assert error(loss, expected_loss) * EPSILON < 1e-13
    assert max(gradient_errors(gradients, expected).values()) * EPSILON < 1e-13


def test_a_float64_backend_changes_nothing_for_a_float32_one():
    def run():
        backend = make("jax")
        params = backend.load_params(initial_parameters(DROPOUT))

        def loss(p, t, y, key):
            return language_model_loss(backend.ops, DROPOUT, p, t, y, key)

        value, grads = backend.jit(backend.value_and_grad(loss))(
            params, backend.put(TOKENS), backend.put(TARGETS), backend.dropout_key(0, 1)
        )
        return [backend.to_numpy(value), *backend.dump_params(grads).values()]

    before = run()
    BackendSubject(make("jax", dtype="float64")).logits(CONFIG, WEIGHTS["init"], TOKENS)
    after = run()
    import jax

    assert not jax.config.jax_enable_x64
    for a, b in zip(before, after, strict=True):
        assert a.dtype == b.dtype == np.float32
        assert (a == b).all()


def test_rematerialised_blocks_give_the_same_gradients(reference):
    _, gradients = loss_and_gradients(BackendSubject(make("jax", remat="true")), "probe")
    _, expected = loss_and_gradients(reference, "probe")
    assert max(gradient_errors(gradients, expected).values()) < 24


# ---------------------------------------------------------------------- what a user can get wrong


@pytest.mark.parametrize("name", ["torch", "jax", "tinygrad"])
def test_mistakes_are_told_in_one_line(name):
    backend = make(name)
    create = importlib.import_module(f"gpt2spec_{name}.create").create
    flag = {"torch": "compile", "jax": "remat", "tinygrad": "compile"}[name]
    one_cpu = {"jax": "cpu:99", "torch": "cpu:99", "tinygrad": "cpu:x"}[name]  # tinygrad has as many as one likes
    for options, words in [
        ({"device": "abacus"}, ["abacus", backend.device.split(":")[0]]),
        ({"device": one_cpu}, [one_cpu, backend.device.split(":")[0]]),
        ({"device": "cpu", "dtype": "float8"}, ["float8", "float32", "bfloat16"]),
        ({"device": "cpu", flag: "perhaps"}, ["perhaps", flag, "true or false"]),
    ]:
        with pytest.raises(BackendError) as caught:
            create(**options)
        assert "\n" not in str(caught.value)
        assert [word for word in words if word not in str(caught.value)] == []


def test_tinygrad_without_a_compiler_says_what_to_install(monkeypatch):
    make("tinygrad")
    from gpt2spec_tinygrad import clang

    monkeypatch.setenv("CC", "")
    monkeypatch.setattr(clang.shutil, "which", lambda name: None)
    monkeypatch.setattr(clang.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"pip install 'gpt2spec\[tinygrad\]'"):
        clang.provide()


def test_tinygrad_compiles_with_ziglang_where_there_is_no_clang(monkeypatch, tmp_path):
    make("tinygrad")
    from gpt2spec_tinygrad import clang

    pytest.importorskip("ziglang")
    monkeypatch.setenv("CC", "")
    monkeypatch.setattr(clang.shutil, "which", lambda name: None)
    monkeypatch.setattr(clang.platformdirs, "user_cache_dir", lambda name: str(tmp_path / "a folder"))
    clang.provide()
    version = subprocess.run([os.environ["CC"], "--version"], capture_output=True, text=True, check=True)
    assert "clang version" in version.stdout


def test_jax_runs_operation_by_operation_when_told_to():
    create = pytest.importorskip("gpt2spec_jax.create", exc_type=ImportError).create
    backend = create(device="cpu", compile="false")

    def function(x):
        return x, x

    assert backend.jit(function) is backend.jit_update(function) is function
    assert not backend.capabilities.compiled
    assert not backend.capabilities.in_place
    assert create(device="cpu").jit(function) is not function
