"""fastokens, an encoder faster than tiktoken, for much text at once.

It was found to give tiktoken's ids (docs/tokenizer.md says on what), and while it works a part of what it
encodes is encoded by tiktoken too and compared.
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
"""Batches from the beginning that are all compared with tiktoken's ids."""
CHECKED_EVERY = 64
"""After those, one batch of so many."""


class FastEncoder:
    """Encodes batches of texts with fastokens; safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Raises `ConfigError` where fastokens is not installed."""
        try:
            from fastokens import Tokenizer as Native
        except ImportError as error:
            raise ConfigError('the encoder fastokens is not installed: pip install "gpt2spec[fast]"') from error
        self._tokenizer = tokenizer
        self._native: Any = Native.from_json_str(json.dumps(_description(tokenizer)))
        self._batches = itertools.count()

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of some texts, each uint32 [n], as ordinary text.

        Raises `InputError` for what is no text, and where tiktoken, in a batch that is compared, has other ids.
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
        except UnicodeEncodeError:  # a lone surrogate: tiktoken's side has the words for it
            return [self._tokenizer.encode_to_numpy(text) for text in texts]
        return np.split(np.frombuffer(ids, np.uint32), np.frombuffer(ends, np.uint64)[1:-1].astype(np.int64))


def _description(tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokenizer in the words of Hugging Face's `tokenizer.json`, without special tokens: texts are ordinary."""
    vocabulary = encoder_mapping(tokenizer.ranks)
    merges = tokenizer.merges.decode("utf-8").splitlines()[1:]
    return {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
    }
