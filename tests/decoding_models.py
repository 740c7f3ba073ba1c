"""The tests of decoding share small models, backends, and a loop that makes tokens one by one without a cache."""

import dataclasses
import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pytest
from gpt2spec_conformance.weights import weight_set
from gpt2spec_numpy.backend import NumpyBackend
from gpt2spec_numpy.create import create

from gpt2spec.api import GenerateOptions
from gpt2spec.backend import Backend
from gpt2spec.config import GPT2Config
from gpt2spec.decoding import beam
from gpt2spec.decoding.sampling import choose, likeliest, penalised
from gpt2spec.model import forward
from gpt2spec.parameters import HostParams
from gpt2spec.random import uniforms
from gpt2spec.tree import tree_leaves

EXACT = create(dtype="float64")


@dataclass(frozen=True)
class Model:
    """The large weights of a configuration, and their logits for a whole text at a time."""

    config: GPT2Config

    @cached_property
    def params(self) -> HostParams:
        return weight_set("probe", self.config)

    @cached_property
    def loaded(self) -> Any:
        return EXACT.load_params(self.params)

    def logits_after(self, ids: Sequence[int]) -> np.ndarray:
        tokens = EXACT.put(np.array([ids]))
        return EXACT.to_numpy(forward(EXACT.ops, self.config, self.loaded, tokens)[0, -1])

    def tokens(self, prompt: Sequence[int], count: int, stream: int = 0, **settings: Any) -> list[int]:
        """The tokens, each chosen from the logits of all text before it or, if it slides, of the text in the window."""
        options = GenerateOptions(max_new_tokens=count, **settings)
        ids, n_ctx = list(prompt), self.config.n_ctx
        window = ids[:]
        for uniform in uniforms(options.seed, "sampling", stream, *prompt, count=count):
            if len(window) > n_ctx:
                assert options.overflow == "slide"
                window = ids[-max(1, n_ctx // 2) :]
            scores = penalised(self.logits_after(window), ids, options.repetition_penalty)
            ids.append(choose(scores, options, float(uniform)))
            window.append(ids[-1])
        return ids[len(prompt) :]


SMALL = Model(GPT2Config(n_layer=2, n_head=2, n_embd=16, n_ctx=150, vocab_size=37, dropout=0.3))
"""Dropout is on in training: generation must not have it."""
TEXT = Model(GPT2Config(n_layer=1, n_head=2, n_embd=16, n_ctx=100, vocab_size=260, dropout=0.0))
"""A configuration for the tokenizer of bytes, with three more ids."""
PROMPTS = [[1, 2, 3], [5] * 70, [9], list(range(30))]
"""Prompts of different lengths, so that they cross the cache's buckets at different times."""

OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "plain": {},
    "temperature": {"temperature": 2.0},
    "top-k": {"top_k": 10, "seed": 3},
    "top-p": {"top_p": 0.8, "temperature": 1.5},
    "top-p by OpenAI's rule": {"top_p": 0.7, "top_p_rule": "openai"},
    "min-p": {"min_p": 0.05, "temperature": 2.0},
    "repetition penalty": {"temperature": 0.0, "repetition_penalty": 1.5},
    "all": {"temperature": 1.2, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2, "seed": 5},
}
"""Settings of every kind there is."""


def asynchronous(backend: Backend) -> Backend:
    """Change a backend so that tokens are chosen by its own operations. Returns it."""
    backend.capabilities = dataclasses.replace(backend.capabilities, asynchronous=True)
    return backend


class Recording(NumpyBackend):
    """A backend that records what it is asked for.

    Attributes:
        calls: the names of compiled functions, in the order of their calls, and "to_numpy".
        programs: the programs that would be compiled: names with the shapes of all arguments, once for every `jit`.
    """

    def __init__(self) -> None:
        super().__init__("float64", "reference")
        self.calls: list[str] = []
        self.programs: list[Any] = []

    def jit(self, function: Any) -> Any:
        seen = set()

        def run(*args: Any) -> Any:
            shapes = tuple(np.shape(leaf) for leaf in tree_leaves(list(args)))
            if shapes not in seen:
                seen.add(shapes)
                self.programs.append((function.__name__, shapes))
            self.calls.append(function.__name__)
            return function(*args)

        return run

    jit_update = jit

    def to_numpy(self, x: Any) -> np.ndarray:
        self.calls.append("to_numpy")
        return super().to_numpy(x)


class Margins:
    """Measures how close the candidates of beam searches were to each other and to the best rejected one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.smallest = np.inf
        monkeypatch.setattr(beam, "likeliest", self)

    def __call__(self, totals: np.ndarray, count: int) -> np.ndarray:
        order = likeliest(totals, count + 1)
        self.smallest = min(self.smallest, float(-np.diff(totals[order]).max()))
        return order[:count]


class NeverRuns:
    """A backend that must not be touched."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was used before the arguments were checked")


FRAMEWORKS = ("numpy", "torch", "jax", "tinygrad")
FRAMEWORK_OPTIONS: dict[str, dict[str, Any]] = {"torch": {"compile": False}}


def framework(name: str, **options: Any) -> Backend:
    """A backend on the CPU; where it is not installed the test is skipped, but fails if the variable CI is "true"."""
    try:
        importlib.import_module(name)
    except ImportError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{name} must be installed here: {error}")
        pytest.skip(f"{name} is not installed")
    module = importlib.import_module(f"gpt2spec_{name}.create")
    return module.create(device="cpu", **FRAMEWORK_OPTIONS.get(name, {}), **options)
