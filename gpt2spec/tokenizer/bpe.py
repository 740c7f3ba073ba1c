"""GPT-2's byte-level BPE, computed by tiktoken with the released merges, which are part of this package.

No network is ever used. tiktoken is imported when the first text is encoded.
"""

from __future__ import annotations

import copy
import functools
import gzip
import hashlib
import operator
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from gpt2spec.errors import ConfigError, InputError, nearest
from gpt2spec.tokenizer.pieces import split_long_runs
from gpt2spec.tokenizer.vocabulary import END_OF_TEXT, token_ranks

if TYPE_CHECKING:
    import tiktoken

# OpenAI's pattern is 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ (src/encoder.py).
# This one, tiktoken's, makes the same matches and backtracks less.
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


class Tokenizer:
    """A byte-level BPE with one special token, `<|endoftext|>`.

    Every text can be encoded, and decoding gives it back exactly. Any ids can be decoded; where their bytes
    are not UTF-8, the text has U+FFFD.

    Attributes:
        id: the name and a hash of the merges, equal for tokenizers that give equal ids.
        merges: the contents of its `vocab.bpe` file.
        vocab_size: token ids run from 0 to `vocab_size - 1`.
        end_of_text: the id of `<|endoftext|>`, which separates documents.
        ranks: maps the bytes of each token to its id; `<|endoftext|>` is not in it.
    """

    def __init__(self, merges: bytes, name: str) -> None:
        """Build the tokenizer from the contents of a `vocab.bpe` file: a version line, then one merge per line."""
        self.merges = merges
        self.ranks = token_ranks(merges.decode("utf-8"))
        self.id = f"{name}-{hashlib.sha256(merges).hexdigest()[:16]}"
        self.vocab_size = len(self.ranks) + 1
        self.end_of_text = len(self.ranks)

    def __repr__(self) -> str:
        return f"Tokenizer({self.id!r}, vocab_size={self.vocab_size})"

    def encode(self, text: str, special: bool = False) -> list[int]:
        """The token ids of a text.

        Args:
            text: any text; lone surrogates are an `InputError`.
            special: whether `<|endoftext|>` in the text becomes the special token. Otherwise it is ordinary text
                of seven tokens, which is the safe choice for text that somebody else wrote.
        """
        if special:
            first, *others = _text(text).split(END_OF_TEXT)
            return [*self.encode(first), *(t for other in others for t in (self.end_of_text, *self.encode(other)))]
        return [token for piece in split_long_runs(_text(text)) for token in self._encoding.encode_ordinary(piece)]

    def encode_to_numpy(self, text: str) -> np.ndarray:
        """The token ids of an ordinary text as uint32 [n]; `encode` gives equal ids, but is slower for long texts."""
        ids = [self._encoding.encode_to_numpy(piece, disallowed_special=()) for piece in split_long_runs(_text(text))]
        return ids[0] if len(ids) == 1 else np.concatenate(ids)

    def encode_each(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode_to_numpy` of every text, in a single call if possible, so that threads wait less for each other."""
        try:
            joined = _text(END_OF_TEXT.join(texts))
        except (TypeError, InputError):  # one text is wrong; encoding each by itself says which
            return [self.encode_to_numpy(text) for text in texts]
        if joined.count(END_OF_TEXT) != len(texts) - 1 or len(split_long_runs(joined)) > 1:
            return [self.encode_to_numpy(text) for text in texts]
        ids = self._encoding.encode_to_numpy(joined, allowed_special={END_OF_TEXT}, disallowed_special=())
        ends = np.flatnonzero(ids == self.end_of_text).tolist()
        return [ids[start:end] for start, end in zip([0, *(end + 1 for end in ends)], [*ends, len(ids)], strict=True)]

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens, with U+FFFD for bytes that are not UTF-8. Unknown ids are an `InputError`."""
        return self.decode_bytes(tokens).decode("utf-8", errors="replace")

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """The joined bytes of tokens. An id outside the vocabulary is an `InputError`."""
        return self._encoding.decode_bytes(self._known(tokens))

    def decode_each(self, tokens: Iterable[int]) -> list[bytes]:
        """The bytes of every single token. An id outside the vocabulary is an `InputError`."""
        return self._encoding.decode_tokens_bytes(self._known(tokens))

    def copy(self) -> Tokenizer:
        """An equal tokenizer with its own tiktoken encoder, for a thread that encodes much text.

        It takes 20 ms and 12 MB. tiktoken's regular expression engine serves the first thread that uses it two fifths
        faster than the others.
        """
        twin = copy.copy(self)
        twin.__dict__.pop("_encoding", None)
        return twin

    @functools.cached_property
    def _encoding(self) -> tiktoken.Encoding:
        import tiktoken

        return tiktoken.Encoding(
            self.id, pat_str=PATTERN, mergeable_ranks=self.ranks, special_tokens={END_OF_TEXT: self.end_of_text}
        )

    def _known(self, tokens: Iterable[int]) -> list[int]:
        try:
            ids = [operator.index(token) for token in tokens]
        except TypeError as error:
            raise InputError(f"token ids are whole numbers: {error}") from None
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise InputError(f"there is no token {token}: ids run from 0 to {self.vocab_size - 1}")
        return ids


@functools.cache
def gpt2_tokenizer() -> Tokenizer:
    """The tokenizer of the released GPT-2 models: 256 bytes, 50,000 merges and `<|endoftext|>`."""
    compressed = files("gpt2spec.tokenizer").joinpath("vocab.bpe.gz").read_bytes()
    return Tokenizer(gzip.decompress(compressed), name="gpt2")


@functools.cache
def byte_tokenizer() -> Tokenizer:
    """A tokenizer without merges, 256 bytes and `<|endoftext|>`: the smallest vocabulary, for the smallest models."""
    return Tokenizer(b"#version: 0.2\n", name="bytes")


_BY_NAME = {"gpt2": gpt2_tokenizer, "bytes": byte_tokenizer}
TOKENIZERS = tuple(_BY_NAME)
"""The names of the tokenizers that come with this package."""


def tokenizer_named(name: str) -> Tokenizer:
    """The tokenizer called `name`, which is one of `TOKENIZERS`; any other name is a `ConfigError`."""
    if name not in _BY_NAME:
        raise ConfigError(f"there is no tokenizer {name!r}{nearest(name, TOKENIZERS)}; there are {TOKENIZERS}")
    return _BY_NAME[name]()


def comes_along(identifier: str) -> bool:
    """Whether the tokenizer with this `id` is one of `TOKENIZERS`, so that no copy of it need be kept."""
    return any(tokenizer_named(name).id == identifier for name in TOKENIZERS)


def _text(text: str) -> str:
    """Return `text`, or raise `InputError` for what tiktoken would refuse unclearly or, worse, replace silently."""
    if not isinstance(text, str):
        raise InputError(f"a tokenizer encodes a string, not {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"the text has the lone surrogate U+{ord(text[error.start]):04X} at character {error.start}, which is "
            "no character; it comes from text read with the wrong encoding: read it as UTF-8"
        ) from None
    return text
