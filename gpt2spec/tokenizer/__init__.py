"""Text to token ids and back: GPT-2's byte-level BPE, offline."""

from gpt2spec.tokenizer.bpe import (
    TOKENIZERS,
    Tokenizer,
    byte_tokenizer,
    gpt2_tokenizer,
    tokenizer_named,
    tokenizer_with_id,
)
from gpt2spec.tokenizer.parallel import ENCODERS, encode_labelled, encode_stream
from gpt2spec.tokenizer.pieces import last_boundary, split_safely
from gpt2spec.tokenizer.streaming import StreamDecoder

__all__ = [
    "ENCODERS",
    "TOKENIZERS",
    "StreamDecoder",
    "Tokenizer",
    "byte_tokenizer",
    "encode_labelled",
    "encode_stream",
    "gpt2_tokenizer",
    "last_boundary",
    "split_safely",
    "tokenizer_named",
    "tokenizer_with_id",
]
