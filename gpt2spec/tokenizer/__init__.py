"""Text to token ids and back: GPT-2's byte-level BPE, offline."""

from gpt2spec.tokenizer.bpe import Tokenizer, gpt2_tokenizer
from gpt2spec.tokenizer.pieces import last_boundary, split_safely
from gpt2spec.tokenizer.streaming import StreamDecoder

__all__ = ["StreamDecoder", "Tokenizer", "gpt2_tokenizer", "last_boundary", "split_safely"]
