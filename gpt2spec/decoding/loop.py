"""Extending prompts token by token on the key/value cache.

Prompts are read in one pass, padded on the right: what stands in a row's padding is later than anything that row
looks at, and is overwritten when the row gets there. So rows of different lengths do not affect each other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from gpt2spec.backend import Backend
from gpt2spec.config import GPT2Config
from gpt2spec.decoding.sampling import SamplingOptions, choose
from gpt2spec.errors import ConfigError, InputError
from gpt2spec.model import cached_forward, empty_cache
from gpt2spec.parameters import HostParams, check_parameters
from gpt2spec.random import uniforms

BUCKET = 64
"""Attention looks at a multiple of this many cache slots, so that compilers see few shapes."""


@dataclass(frozen=True)
class Generation:
    """The continuation of one prompt.

    Attributes:
        tokens: the new tokens, without the prompt; a stop token is not among them.
        finish_reason: "stop" at a stop token, "length" at `max_new_tokens`.
    """

    tokens: list[int]
    finish_reason: Literal["stop", "length"]


def generate(
    backend: Backend,
    config: GPT2Config,
    params: HostParams,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop_token: int | None = None,
) -> list[Generation]:
    """Continue each prompt (token ids, at least one) by up to `max_new_tokens` tokens.

    Prompt i draws from a random stream of its own, keyed by (seed, i). Raises `InputError` or `ConfigError`
    before anything runs, also when a prompt with its new tokens would be longer than `config.n_ctx`.
    """
    options = SamplingOptions(temperature, top_k, top_p)
    check_prompts(config, prompts, max_new_tokens)
    params = check_parameters(config, params)
    if not len(prompts):
        return []
    device_params = backend.load_params(params)
    return extend(backend, config, device_params, prompts, max_new_tokens, options, seed, stop_token)


def check_prompts(config: GPT2Config, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Raise unless every prompt has ids within the vocabulary and fits the context with its new tokens."""
    if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens is a whole number of at least 1, not {max_new_tokens}")
    for i, prompt in enumerate(prompts):
        if not isinstance(prompt, Sequence | np.ndarray):
            raise InputError(f"prompt {i} is {prompt!r}; a prompt is a sequence of token ids")
        if not len(prompt):
            raise InputError(f"prompt {i} is empty; begin with <|endoftext|> to start a new text")
        for token in prompt:
            if not isinstance(token, int | np.integer) or not 0 <= token < config.vocab_size:
                raise InputError(
                    f"prompt {i} has the id {token!r}; ids are whole numbers from 0 to {config.vocab_size - 1}"
                )
        if len(prompt) + max_new_tokens > config.n_ctx:
            raise InputError(
                f"prompt {i} has {len(prompt)} tokens; with {max_new_tokens} new ones it would pass "
                f"n_ctx = {config.n_ctx}"
            )


def extend(
    backend: Backend,
    config: GPT2Config,
    device_params: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    options: SamplingOptions,
    seed: int,
    stop_token: int | None,
) -> list[Generation]:
    """`generate` with parameters that are on the device already, and prompts that were checked."""
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)  # [B]
    width = min(_bucket(int(lengths.max())), config.n_ctx)
    capacity = _bucket(int(lengths.max()) + max_new_tokens)
    tokens = np.zeros((len(prompts), width), np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt

    device_params = backend.jit(backend.ops.compute_params)(device_params)  # cast once, not at every token
    start = np.zeros_like(lengths)
    cache = empty_cache(backend.ops, config, len(prompts), capacity)
    draws = np.stack([uniforms(seed, "sampling", i, count=max_new_tokens) for i in range(len(prompts))])
    new: list[list[int]] = [[] for _ in prompts]
    stopped = [False] * len(prompts)
    last = lengths - 1  # where in `tokens` each row's newest token stands
    for step in range(max_new_tokens):
        seen = min(_bucket(int((start + tokens.shape[1]).max())), capacity)
        update = _compiled_step(backend, config, seen)
        cache, device_logits = update(cache, device_params, backend.put(tokens), backend.put(start))
        logits = backend.to_numpy(device_logits)  # [B, T, V]
        start = start + last + 1
        tokens = np.zeros((len(prompts), 1), np.int32)
        for i in range(len(prompts)):
            if not stopped[i]:
                tokens[i] = token = choose(logits[i, last[i]], options, draws[i, step])
                stopped[i] = token == stop_token
                if not stopped[i]:
                    new[i].append(token)
        last = np.zeros_like(lengths)
        if all(stopped):
            break
    return [Generation(ids, "stop" if end else "length") for ids, end in zip(new, stopped, strict=True)]


def _bucket(length: int) -> int:
    return -(-length // BUCKET) * BUCKET


@lru_cache(maxsize=64)
def _compiled_step(backend: Backend, config: GPT2Config, length: int) -> Callable[..., Any]:
    def step(cache: Any, params: Any, tokens: Any, start: Any) -> tuple[Any, Any]:
        return cached_forward(backend.ops, config, params, cache, tokens, start, length)

    return backend.jit_update(step)
