"""Text from tokens that arrive one at a time."""

import codecs
from collections.abc import Iterable

from gpt2spec.tokenizer.bpe import Tokenizer


class StreamDecoder:
    """Decodes tokens one by one into text that is final, holding back unfinished characters.

    A character of several bytes may be spread over several tokens; its text appears with the last of them.
    Everything that `feed` and `finish` return, joined, is what `Tokenizer.decode` gives for all tokens; and U+FFFD for
    each id beyond its vocabulary, as a model may have more ids than its tokenizer, for speed.
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
        """What is still held back, as U+FFFD, or an empty string; the decoder can then be used afresh."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def text_of(tokenizer: Tokenizer, tokens: Iterable[int]) -> str:
    """The text of tokens that a model made: `Tokenizer.decode`, but for ids that only the model has."""
    decoder = StreamDecoder(tokenizer)
    return "".join([*map(decoder.feed, tokens), decoder.finish()])
