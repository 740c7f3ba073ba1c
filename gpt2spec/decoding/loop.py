"""This module has the loop that extends texts token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gpt2spec.backend import Backend
from gpt2spec.config import GPT2Config
from gpt2spec.decoding.cache import Rows
from gpt2spec.decoding.chooser import Chosen, chooser
from gpt2spec.decoding.options import GenerateOptions
from gpt2spec.decoding.sequence import GrowingText, Piece
from gpt2spec.tree import Tree


def extend(
    backend: Backend,
    config: GPT2Config,
    params: Tree,
    texts: Sequence[GrowingText],
    options: GenerateOptions,
    streaming: bool,
) -> Iterator[Piece]:
    """Yield pieces of all texts until all are finished. `params` are the backend's `decoding_params`."""
    rows = read(backend, config, params, texts, options)
    choose = chooser(backend, texts, options, streaming)
    step = 0
    while True:
        ahead = min(choose.ahead, options.max_new_tokens - step, config.n_ctx + 1 - int(rows.lengths.max()))
        chosen: list[Chosen] = []
        for i in range(ahead):
            if i:
                rows.append(chosen[-1].tokens)
            chosen.append(choose(rows, step + i))
        step += ahead
        for choices in choose.choices(chosen):
            for text, choice in zip(texts, choices, strict=True):
                if not text.finished:
                    yield text.add(choice)
        growing = [i for i, text in enumerate(texts) if not text.finished]
        if not growing:
            return
        full = int(rows.lengths.max()) >= config.n_ctx
        if full or len(growing) <= len(texts) // 2:
            texts = [texts[i] for i in growing]
            choose = chooser(backend, texts, options, streaming)
        if full:
            rows = read(backend, config, params, texts, options)
        else:
            if len(texts) < len(rows.lengths):
                rows.select(growing)
            rows.append(backend.put(np.array([text.ids[-1] for text in texts], np.int32)))


def read(
    backend: Backend, config: GPT2Config, params: Tree, texts: Sequence[GrowingText], options: GenerateOptions
) -> Rows:
    """Read the texts, or their ends where they pass the context. Equal texts are read once."""
    windows = [tuple(text.window(config.n_ctx)) for text in texts]
    different = list(dict.fromkeys(windows))
    capacity = min(config.n_ctx, max(map(len, windows)) + options.max_new_tokens)
    rows = Rows(backend, config, params, different, capacity)
    rows.select([different.index(window) for window in windows])
    return rows
