"""This module encodes many texts on all cores, in order and in bounded memory.

Both encoders let other threads run while they encode, so threads are enough, and nothing is copied between processes.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from gpt2spec.errors import ConfigError, nearest
from gpt2spec.tokenizer.bpe import Tokenizer
from gpt2spec.tokenizer.fast import FastEncoder

Label = TypeVar("Label")

ENCODERS = ("tiktoken", "fastokens")
"""The names of the encoders: tiktoken, which is the definition, and fastokens (`FastEncoder`)."""

BATCH_CHARACTERS = 1 << 18
"""A thread is handed short texts in batches of so many characters or a few more.

That is ten milliseconds of work. A thread may then wait five milliseconds until the reading thread releases Python.
"""
BATCHES_A_WORKER = 3
"""Batches that are read ahead for each thread: the one that it encodes, and two that wait."""


def encode_stream(
    tokenizer: Tokenizer, texts: Iterable[str], workers: int | None = None, *, encoder: str = "tiktoken"
) -> Iterator[np.ndarray]:
    """Encode every text as ordinary text, in the order of the texts.

    Close or drop the iterator to stop early. Texts that wait are then discarded, and each thread ends after the text
    that it is encoding.

    Args:
        tokenizer: the tokenizer.
        texts: read in the caller's thread, some way ahead of what is returned: about
            `BATCHES_A_WORKER * BATCH_CHARACTERS` characters for each worker, or that many texts where each is longer.
            A long text is encoded by one thread; `split_safely` divides it into pieces.
        workers: the number of threads; by default, the number of cores that this process may use.
        encoder: one of `ENCODERS`.

    Yields:
        The ids [n] of each text: uint16 where the vocabulary has at most 65,536 entries, otherwise uint32.

    Raises:
        ConfigError: for fewer than one worker, or an encoder that is unknown or not installed.
        InputError: in place of its ids, for what is no text (see `Tokenizer.encode`), and where encoders disagree.
        Exception: what reading `texts` raises, as soon as it does.
    """
    return (ids for _, ids in encode_labelled(tokenizer, ((None, text) for text in texts), workers, encoder=encoder))


def encode_labelled(
    tokenizer: Tokenizer,
    texts: Iterable[tuple[Label, str]],
    workers: int | None = None,
    *,
    encoder: str = "tiktoken",
) -> Iterator[tuple[Label, np.ndarray]]:
    """Do the same as `encode_stream` for texts with labels, which are yielded beside the ids."""
    count = available_cores() if workers is None else workers
    if count < 1:
        raise ConfigError(f"encoding needs at least one worker, not {count}")
    if encoder not in ENCODERS:
        raise ConfigError(f"there is no encoder {encoder!r}{nearest(encoder, ENCODERS)}; there are {ENCODERS}")
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
    return _encoded(
        _tiktoken(tokenizer) if encoder == "tiktoken" else FastEncoder(tokenizer).encode, texts, count, dtype
    )


def available_cores() -> int:
    """The number of cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tiktoken(tokenizer: Tokenizer) -> Callable[[Sequence[str]], list[np.ndarray]]:
    """A function that encodes batches with tiktoken; each thread has its own copy of the tokenizer."""
    own = threading.local()

    def encode(texts: Sequence[str]) -> list[np.ndarray]:
        if not hasattr(own, "tokenizer"):  # a copy only pays for much text
            own.tokenizer = tokenizer.copy() if sum(map(len, texts)) > BATCH_CHARACTERS // 2 else None
        return (own.tokenizer or tokenizer).encode_each(texts)

    return encode


def _encoded(
    encode_batch: Callable[[Sequence[str]], list[np.ndarray]],
    texts: Iterable[tuple[Label, str]],
    workers: int,
    dtype: type[np.unsignedinteger],
) -> Iterator[tuple[Label, np.ndarray]]:
    def encode(batch: list[tuple[Label, str]]) -> list[tuple[Label, np.ndarray]]:
        labels, plain = zip(*batch, strict=True)
        return [(label, ids.astype(dtype, copy=False)) for label, ids in zip(labels, encode_batch(plain), strict=True)]

    waiting: deque[Future[list[tuple[Label, np.ndarray]]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="gpt2spec-encode")
    try:
        for batch in _batches(texts):
            waiting.append(pool.submit(encode, batch))
            if len(waiting) == BATCHES_A_WORKER * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(texts: Iterable[tuple[Label, str]]) -> Iterator[list[tuple[Label, str]]]:
    batch: list[tuple[Label, str]] = []
    size = 0
    for label, text in texts:
        batch.append((label, text))
        size += len(text) + 1  # so that empty texts count
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
