"""fastokens is an encoder faster than tiktoken for long texts.

Tests found it to give tiktoken's ids (docs/tokenizer.md says on what text), and while it runs, some of its batches are
encoded by tiktoken too and compared.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpt2spec.errors import ConfigError, InputError
from gpt2spec.tokenizer.bpe import Tokenizer
from gpt2spec.tokenizer.vocabulary import encoder_mapping

CHECKED_FIRST = 16
"""So many batches from the beginning are all compared with tiktoken's ids."""
CHECKED_EVERY = 64
"""After those, one batch in so many is compared."""


class FastEncoder:
    """Encodes batches of texts with fastokens. Threads can share it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Build the encoder. Raises `ConfigError` where fastokens is not installed."""
        try:
            from fastokens import Tokenizer as Native
        except ImportError as error:
            raise ConfigError('the encoder fastokens is not installed: pip install "gpt2spec[fast]"') from error
        self._tokenizer = tokenizer
        self._native: Any = Native.from_json_str(json.dumps(_description(tokenizer)))
        self._batches = itertools.count()

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text as ordinary text: uint32 [n].

        Raises `InputError` for what is no text, and where a comparison with tiktoken finds other ids.
        """
        batch = next(self._batches)
        if batch < CHECKED_FIRST or batch % CHECKED_EVERY == 0:
            expected = self._tokenizer.encode_each(texts)
            for text, mine, right in zip(texts, self._encoded(texts), expected, strict=True):
                if not np.array_equal(mine, right):
                    raise InputError(
                        f"fastokens and tiktoken disagree on a text that begins {text[:40]!r}; encode with "
                        "--encoder tiktoken, which is the definition"
                    )
            return expected
        return self._encoded(texts)

    def _encoded(self, texts: Sequence[str]) -> list[np.ndarray]:
        try:
            ids, ends = self._native.encode_batch_flat(list(texts))
        except UnicodeEncodeError:  # a lone surrogate, for which the tokenizer has a clear message
            return [self._tokenizer.encode_to_numpy(text) for text in texts]
        return np.split(np.frombuffer(ids, np.uint32), np.frombuffer(ends, np.uint64)[1:-1].astype(np.int64))


def _description(tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokenizer as a Hugging Face `tokenizer.json`, without special tokens, because texts are ordinary."""
    vocabulary = encoder_mapping(tokenizer.ranks)
    merges = tokenizer.merges.decode("utf-8").splitlines()[1:]
    return {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
    }
