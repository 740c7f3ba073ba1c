"""This package turns text into token ids and back with GPT-2's byte-level BPE, without any network."""

from gpt2spec.tokenizer.bpe import (
    TOKENIZERS,
    Tokenizer,
    byte_tokenizer,
    comes_along,
    gpt2_tokenizer,
    tokenizer_named,
)
from gpt2spec.tokenizer.parallel import ENCODERS, encode_labelled, encode_stream
from gpt2spec.tokenizer.pieces import last_boundary, split_safely
from gpt2spec.tokenizer.saved import (
    UNKNOWN,
    find_tokenizer,
    holds_tokenizer,
    read_tokenizer,
    recorded_tokenizer,
    write_tokenizer,
)
from gpt2spec.tokenizer.streaming import StreamDecoder, text_of
from gpt2spec.tokenizer.training import train_tokenizer

__all__ = [
    "ENCODERS",
    "TOKENIZERS",
    "UNKNOWN",
    "StreamDecoder",
    "Tokenizer",
    "byte_tokenizer",
    "comes_along",
    "encode_labelled",
    "encode_stream",
    "find_tokenizer",
    "gpt2_tokenizer",
    "holds_tokenizer",
    "last_boundary",
    "read_tokenizer",
    "recorded_tokenizer",
    "split_safely",
    "text_of",
    "tokenizer_named",
    "train_tokenizer",
    "write_tokenizer",
]
