"""This module decodes tokens that arrive one at a time."""

import codecs
from collections.abc import Iterable

from gpt2spec.tokenizer.bpe import Tokenizer


class StreamDecoder:
    """Decodes tokens one by one into text that is final, holding back unfinished characters.

    A character of several bytes may be spread over several tokens; its text appears with the last of them. All results
    of `feed` and `finish`, joined, equal `Tokenizer.decode` of all tokens. A model may have more ids than its
    tokenizer; each such id is decoded as U+FFFD.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token: int) -> str:
        """The text that `token` completes, possibly none; a negative id is an `InputError`."""
        if token >= self._tokenizer.vocab_size:
            return self.finish() + "\ufffd"
        return self._decoder.decode(self._tokenizer.decode_bytes([token]))

    def finish(self) -> str:
        """U+FFFD for an unfinished character, or an empty string. The decoder can then be used for another text."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def text_of(tokenizer: Tokenizer, tokens: Iterable[int]) -> str:
    """The text of tokens that a model made. It accepts ids that only the model has, unlike `Tokenizer.decode`."""
    decoder = StreamDecoder(tokenizer)
    return "".join([*map(decoder.feed, tokens), decoder.finish()])
