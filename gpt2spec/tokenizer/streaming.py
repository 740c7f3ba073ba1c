"""Text from tokens that arrive one at a time."""

import codecs

from gpt2spec.tokenizer.bpe import Tokenizer


class StreamDecoder:
    """Decodes tokens one by one into text that is final, holding back unfinished characters.

    A character of several bytes may be spread over several tokens; its text appears with the last of them.
    Everything that `feed` and `finish` return, joined, is what `Tokenizer.decode` gives for all tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token: int) -> str:
        """The text that `token` completes, possibly none; an unknown id is an `InputError`."""
        return self._decoder.decode(self._tokenizer.decode_bytes([token]))

    def finish(self) -> str:
        """What is still held back, as U+FFFD, or an empty string; the decoder can then be used afresh."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest
