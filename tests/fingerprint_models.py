"""Fingerprints of what backends compute: logits, taps, losses, gradients, updates and decoded tokens."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import gpt2spec
from gpt2spec.config import GPT2Config
from gpt2spec.loss import language_model_loss
from gpt2spec.model import forward, forward_with_taps
from gpt2spec.optimizer import AdamW, WarmupCosine, initial_state, train_step, update_scalars

Entries = Iterator[tuple[str, Any]]

SMALL = GPT2Config(n_layer=2, n_head=2, n_embd=32, n_ctx=48, vocab_size=61, dropout=0.0)
LARGE = GPT2Config(n_layer=2, n_head=4, n_embd=384, n_ctx=64, vocab_size=61)
"""Its blocks have more than 2**20 weights: PyTorch compiles a program for decoding ahead of time."""
DROPOUTS = {"residual": {"dropout": 0.1}, "everywhere": {"dropout": 0.1, "attn_dropout": 0.2}}
ADAMW = AdamW(weight_decay=0.1, decay="matrices", clip=0.5)
SCHEDULE = WarmupCosine(peak=0.01, warmup=2, steps=7, final_fraction=0.1)
PROMPTS = [[5], [7, 11, 13, 17, 19], [23, 29, 31]]
DECODINGS: dict[str, dict[str, Any]] = {
    "greedy": {"max_new_tokens": 12, "temperature": 0.0},
    "sampled": {"max_new_tokens": 12, "temperature": 0.8, "top_k": 20, "top_p": 0.9, "samples": 2, "alternatives": 2},
    "beams": {"max_new_tokens": 8, "beams": 3, "samples": 2, "length_penalty": 0.6},
    "penalised": {"max_new_tokens": 12, "repetition_penalty": 1.3, "min_p": 0.05, "seed": 3, "stop_tokens": [8, 9]},
    "sliding": {"max_new_tokens": 60, "top_k": 5, "overflow": "slide", "batch_size": 2},
}


def weights(config: GPT2Config) -> dict[str, np.ndarray]:
    """Weights of which all count, biases and gains as well."""
    random = np.random.Generator(np.random.Philox(key=1))
    params = gpt2spec.initial_parameters(config, seed=0)
    return {name: (x + 0.1 * random.standard_normal(x.shape)).astype(np.float32) for name, x in params.items()}


def batch(config: GPT2Config, rows: int = 3, length: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Random tokens and targets [rows, length]."""
    random = np.random.Generator(np.random.Philox(key=2))
    tokens, targets = random.integers(0, config.vocab_size, (2, rows, length))
    return tokens.astype(np.int32), targets.astype(np.int32)


def named_arrays(name: str, tree: Any) -> Entries:
    """The leaves of nested dicts and lists under dotted names."""
    if isinstance(tree, dict):
        for key in sorted(tree):
            yield from named_arrays(f"{name}.{key}", tree[key])
    elif isinstance(tree, list | tuple):
        for i, each in enumerate(tree):
            yield from named_arrays(f"{name}.{i}", each)
    else:
        yield name, tree


def computed(backend: Any, asked: list[str]) -> Entries:
    """What is asked of a backend: "inference", "gradients", trainings by the name of their dropout, and decodings."""
    params = weights(SMALL)
    for name in asked:
        if name in DROPOUTS:
            yield from updates(backend, SMALL.replace(**DROPOUTS[name]), params, f"train.{name}")
        elif name in DECODINGS:
            yield from decoded(backend, SMALL, params, name)
        else:
            yield from {"inference": inference, "gradients": gradients}[name](backend, params)


def inference(backend: Any, params: dict[str, np.ndarray]) -> Entries:
    """Logits, by both ways to ask for them, and the stream within the model."""
    tokens = batch(SMALL)[0]
    run = backend.jit(lambda params, tokens: forward(backend.ops, SMALL, params, tokens))
    yield "logits", backend.to_numpy(run(backend.load_params(params), backend.put(tokens)))
    yield "logits.api", gpt2spec.logits(backend, SMALL, params, tokens[:1, :7])
    run = backend.jit(lambda params, tokens: forward_with_taps(backend.ops, SMALL, params, tokens))
    logits, taps = run(backend.load_params(params), backend.put(tokens))
    yield "logits.tapped", backend.to_numpy(logits)
    yield from ((name, backend.to_numpy(x)) for name, x in named_arrays("taps", taps))


def gradients(backend: Any, params: dict[str, np.ndarray]) -> Entries:
    """The loss with and without dropout, and every gradient."""
    tokens, targets = batch(SMALL)
    loss, found = gpt2spec.loss_and_gradients(backend, SMALL, params, tokens, targets)
    yield "loss", np.float64(loss).hex()
    yield from named_arrays("gradient", found)
    config = SMALL.replace(**DROPOUTS["everywhere"])
    run = backend.jit(functools.partial(language_model_loss, backend.ops, config))
    inputs = (backend.load_params(params), backend.put(tokens), backend.put(targets), backend.dropout_key(3, 4))
    yield "loss.dropout", backend.to_numpy(run(*inputs))


def updates(backend: Any, config: GPT2Config, params: dict[str, np.ndarray], name: str) -> Entries:
    """Losses and norms of three updates with dropout and clipping, and what they leave of weights and moments."""
    step = train_step(backend, config, ADAMW)
    state = initial_state(backend.ops, backend.load_params(params))
    tokens, targets = (backend.put(x) for x in batch(config))
    for update in (1, 2, 3):
        rate = SCHEDULE(update)
        scalars = update_scalars(ADAMW, rate, update)
        on_device = {key: backend.put(np.float64(value)) for key, value in scalars.items()}
        state, metrics = step(state, tokens, targets, on_device, backend.dropout_key(7, update))
        yield f"{name}.{update}.rate", rate.hex()
        yield from ((f"{name}.{update}.{key}", backend.to_numpy(metrics[key])) for key in sorted(metrics))
    for kind in ("params", "m", "v"):
        yield from named_arrays(f"{name}.{kind}", backend.dump_params(state[kind]))


def decoded(backend: Any, config: GPT2Config, params: dict[str, np.ndarray], name: str) -> Entries:
    """Tokens of every continuation, and the bits of their log-probabilities."""
    for text in gpt2spec.generate(backend, config, params, PROMPTS, **DECODINGS[name]):
        place = f"{name}.{text.prompt}.{text.sample}"
        yield f"{place}.tokens", f"{text.tokens} {text.finish_reason}"
        yield f"{place}.logprobs", np.array(text.logprobs, np.float64)
        if text.score is not None:
            yield f"{place}.score", np.float64(text.score).hex()
        if text.alternatives:
            yield f"{place}.alternatives", np.array(text.alternatives, np.float64)


def rates(_: Path) -> Entries:
    """The learning rate and the scalars of every update of a schedule."""
    for update in range(1, 10):
        scalars = update_scalars(ADAMW, SCHEDULE(update), update)
        yield f"update.{update}", " ".join(f"{name}={value.hex()}" for name, value in sorted(scalars.items()))


def of_backend(name: str, dtype: str, asked: list[str], **options: Any) -> Callable[[Path], Entries]:
    """The group of one backend in one dtype."""
    return lambda _: computed(gpt2spec.load_backend(name, dtype=dtype, **options), asked)


def of_decoding(name: str, config: GPT2Config, decodings: list[str], **options: Any) -> Callable[[Path], Entries]:
    """The group of a backend that only decodes."""

    def group(_: Path) -> Entries:
        backend = gpt2spec.load_backend(name, **options)
        for decoding in decodings:
            yield from decoded(backend, config, weights(config), decoding)

    return group


def large_rows(**options: Any) -> Callable[[Path], Entries]:
    """One row, and then several, of a model with large blocks, on PyTorch."""

    def group(_: Path) -> Entries:
        generator = gpt2spec.Generator(gpt2spec.load_backend("torch", device="cpu", **options), LARGE, weights(LARGE))
        for name, prompts in (("row", PROMPTS[1:2]), ("rows", PROMPTS)):
            for text in generator.generate(prompts, max_new_tokens=16, temperature=0.0):
                yield f"{name}.{text.prompt}.tokens", f"{text.tokens}"
                yield f"{name}.{text.prompt}.logprobs", np.array(text.logprobs, np.float64)

    return group


MODEL = ["inference", "gradients", "everywhere"]
FEW = ["greedy", "sampled", "beams"]
ALL = [*MODEL, "residual", *DECODINGS]
CPU = {"device": "cpu"}
GROUPS: dict[str, Callable[[Path], Entries]] = {
    "schedule": rates,
    "numpy-fast-float32": of_backend("numpy", "float32", ALL, mode="fast"),
    "numpy-fast-float64": of_backend("numpy", "float64", [*MODEL, *FEW], mode="fast"),
    "numpy-reference-float32": of_backend("numpy", "float32", [*MODEL, *FEW], mode="reference"),
    "numpy-reference-float64": of_backend("numpy", "float64", ALL, mode="reference"),
    "numpy-large": of_decoding("numpy", LARGE, ["greedy", "beams"]),
    "torch-eager-float32": of_backend("torch", "float32", ALL, compile=False, **CPU),
    "torch-eager-float64": of_backend("torch", "float64", [*MODEL, *FEW], compile=False, **CPU),
    "torch-eager-bfloat16": of_backend("torch", "bfloat16", [*MODEL, *FEW], compile=False, **CPU),
    "torch-eager-int8": of_decoding("torch", SMALL, FEW, int8=True, compile=False, **CPU),
    "torch-blocks-float32": of_backend("torch", "float32", ["gradients", "everywhere"], compile="blocks", **CPU),
    "torch-blocks-bfloat16": of_backend("torch", "bfloat16", ["inference", "gradients"], compile="blocks", **CPU),
    "torch-step-float32": of_backend("torch", "float32", ["gradients", "residual"], compile="step", **CPU),
    "torch-large-float32": large_rows(),
    "torch-large-bfloat16": large_rows(dtype="bfloat16"),
    "torch-large-int8": large_rows(int8=True),
    "jax-eager-float32": of_backend("jax", "float32", ["inference", "gradients"], compile=False, **CPU),
    "jax-compiled-float32": of_backend("jax", "float32", [*MODEL, *FEW], **CPU),
    "jax-compiled-float64": of_backend("jax", "float64", ["gradients", "greedy"], **CPU),
    "jax-compiled-bfloat16": of_backend("jax", "bfloat16", ["gradients"], **CPU),
    "jax-remat-float32": of_backend("jax", "float32", ["everywhere"], remat=True, **CPU),
    "tinygrad-compiled-float32": of_backend("tinygrad", "float32", ["gradients"], device="CPU"),
    "tinygrad-eager-float32": of_backend("tinygrad", "float32", ["inference"], compile=False, device="CPU"),
}
