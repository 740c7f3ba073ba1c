"""This module generates texts, for `gpt2spec.generate` and `gpt2spec.stream`; a `Generator` keeps the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpt2spec.backend import Backend
from gpt2spec.config import GPT2Config
from gpt2spec.decoding.beam import search
from gpt2spec.decoding.loop import extend
from gpt2spec.decoding.options import GenerateOptions, options_from
from gpt2spec.decoding.sequence import Generation, GrowingText, Piece, collect
from gpt2spec.device_weights import Weights, on_device
from gpt2spec.errors import ConfigError, InputError
from gpt2spec.parameters import HostParams
from gpt2spec.tokenizer import Tokenizer

Prompt = str | Sequence[int]
"""Token ids, or text, which needs a tokenizer."""


class Generator:
    """A model that continues prompts.

    Its methods take `options`, or the fields of `GenerateOptions` as keyword arguments. Wrong options and prompts raise
    `ConfigError` and `InputError` before anything is computed.
    """

    def __init__(
        self, backend: Backend, config: GPT2Config, params: Weights, tokenizer: Tokenizer | None = None
    ) -> None:
        """Put `params` on the device, unless they are there. Prompts that are text need the `tokenizer`."""
        self.backend, self.config, self.tokenizer = backend, config, tokenizer
        weights = on_device(backend, config, params)
        self._params = backend.decoding_params(weights)

    def generate(
        self, prompts: Sequence[Prompt], options: GenerateOptions | None = None, **settings: Any
    ) -> list[Generation]:
        """The continuations of all prompts, with the samples of each prompt side by side.

        Apart from rounding in products of other shapes, they do not depend on the other prompts or on `batch_size`.
        """
        options = options_from(options, settings)
        ids = check_prompts(self.config, prompts, options, self.tokenizer)
        if options.beams > 1:
            return list(self._search(ids, options))
        pieces: dict[tuple[int, int], list[Piece]] = {}
        for piece in self._extend(ids, options, streaming=False):
            pieces.setdefault((piece.prompt, piece.sample), []).append(piece)
        return [self.collect(pieces[place], options) for place in sorted(pieces)]

    def stream(
        self,
        prompts: Sequence[Prompt],
        options: GenerateOptions | None = None,
        *,
        promptly: bool = True,
        **settings: Any,
    ) -> Iterator[Piece]:
        """Yield the continuations token by token; `collect` makes a `Generation` from the pieces of one text.

        `promptly=False` lets devices run ahead, which is faster where nobody waits for each token. Beam search, which
        knows its texts only at the end, is a `ConfigError`.
        """
        options = options_from(options, settings)
        _check_streamed(options)
        ids = check_prompts(self.config, prompts, options, self.tokenizer)
        return self._extend(ids, options, streaming=promptly)

    def search(
        self, prompts: Sequence[Prompt], options: GenerateOptions | None = None, **settings: Any
    ) -> Iterator[Generation]:
        """Yield the results of a beam search for each prompt as soon as they are known."""
        options = options_from(options, settings)
        options.check_beams()
        return self._search(check_prompts(self.config, prompts, options, self.tokenizer), options)

    def collect(self, pieces: Sequence[Piece], options: GenerateOptions) -> Generation:
        """The continuation that the pieces of one text, in order, make up."""
        return collect(pieces, self.tokenizer is not None, options.alternatives > 0)

    def _extend(self, prompts: list[list[int]], options: GenerateOptions, streaming: bool) -> Iterator[Piece]:
        seen: dict[tuple[int, ...], int] = {}
        places = []
        for i, ids in enumerate(prompts):
            earlier = seen.get(tuple(ids), 0)  # an equal prompt has the next samples
            seen[tuple(ids)] = earlier + options.samples
            places += [(i, sample, ids, earlier + sample) for sample in range(options.samples)]
        for first in range(0, len(places), options.batch_size):
            batch = places[first : first + options.batch_size]
            texts = [GrowingText(*place, options, self.tokenizer) for place in batch]
            yield from extend(self.backend, self.config, self._params, texts, options, streaming)

    def _search(self, prompts: list[list[int]], options: GenerateOptions) -> Iterator[Generation]:
        at_once = max(1, options.batch_size // options.beams)
        for first in range(0, len(prompts), at_once):
            batch = [(first + i, ids) for i, ids in enumerate(prompts[first : first + at_once])]
            for results in search(self.backend, self.config, self._params, batch, options, self.tokenizer):
                yield from results


def generate(
    backend: Backend,
    config: GPT2Config,
    params: HostParams,
    prompts: Sequence[Prompt],
    options: GenerateOptions | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    **settings: Any,
) -> list[Generation]:
    """Continue prompts, which are token ids or, with a tokenizer, text. Settings are those of `GenerateOptions`.

    Returns the continuations of all prompts, with the samples of each prompt side by side. Raises `InputError` or
    `ConfigError` before anything is computed. To generate repeatedly with the same weights, keep a `Generator`.
    """
    options = options_from(options, settings)
    ids = check_prompts(config, prompts, options, tokenizer)  # before the weights go to the device
    return Generator(backend, config, params, tokenizer).generate(ids, options)


def stream(
    backend: Backend,
    config: GPT2Config,
    params: HostParams,
    prompts: Sequence[Prompt],
    options: GenerateOptions | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    **settings: Any,
) -> Iterator[Piece]:
    """Do the same as `generate`, but yield the pieces of all texts as they are made."""
    options = options_from(options, settings)
    _check_streamed(options)
    ids = check_prompts(config, prompts, options, tokenizer)
    return Generator(backend, config, params, tokenizer).stream(ids, options)


def _check_streamed(options: GenerateOptions) -> None:
    if options.beams > 1:
        raise ConfigError("beam search cannot be streamed: it knows its texts only at the end")


def check_prompts(
    config: GPT2Config,
    prompts: Sequence[Prompt],
    options: GenerateOptions,
    tokenizer: Tokenizer | None = None,
    names: Sequence[str] | None = None,
) -> list[list[int]]:
    """The token ids of every prompt, checked to be in the vocabulary and to fit the context with the new tokens.

    Empty prompts become `<|endoftext|>` where there is a tokenizer, and are errors otherwise. Errors call the prompts
    by `names`, which are "prompt 0" and so on by default.
    """
    if options.stop and tokenizer is None:
        raise ConfigError("stop strings need a tokenizer; give stop_tokens, or a tokenizer")
    if isinstance(prompts, str):
        raise InputError("prompts is a list of prompts; put the one text into a list")
    names = names or [f"prompt {i}" for i in range(len(prompts))]
    return [_checked(config, name, prompt, options, tokenizer) for name, prompt in zip(names, prompts, strict=True)]


def _checked(
    config: GPT2Config, name: str, prompt: Prompt, options: GenerateOptions, tokenizer: Tokenizer | None
) -> list[int]:
    if isinstance(prompt, str):
        if tokenizer is None:
            raise InputError(f"{name} is text; give token ids, or a tokenizer")
        prompt = tokenizer.encode(prompt)
    if not isinstance(prompt, Sequence | np.ndarray):
        raise InputError(f"{name} is {prompt!r}; a prompt is text or a sequence of token ids")
    if not len(prompt):
        if tokenizer is None:
            raise InputError(f"{name} is empty; begin with <|endoftext|> to start a new text")
        prompt = [tokenizer.end_of_text]
    for token in prompt:
        if not isinstance(token, int | np.integer) or not 0 <= token < config.vocab_size:
            raise InputError(f"{name} has the id {token!r}; ids are whole numbers from 0 to {config.vocab_size - 1}")
    if len(prompt) + options.max_new_tokens > config.n_ctx and options.overflow == "error":
        raise InputError(
            f"{name} has {len(prompt)} tokens; with {options.max_new_tokens} new ones it would pass "
            f"n_ctx = {config.n_ctx}"
        )
    return [int(token) for token in prompt]
