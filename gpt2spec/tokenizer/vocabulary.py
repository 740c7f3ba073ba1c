"""The vocabulary of a byte-level BPE, from its merges alone.

A token is a string of bytes. Ids 0 to 255 are the single bytes, in the order of OpenAI's
`bytes_to_unicode`; every merge, in order, adds the token that it makes. Files write a byte as one printable
character, so that merges can be kept as lines of text.

Source: `src/encoder.py` of github.com/openai/gpt-2.
"""

import functools
from types import MappingProxyType

from gpt2spec.errors import ConfigError

END_OF_TEXT = "<|endoftext|>"
VERSION_LINE = "#version: 0.2"
"""The first line of a `vocab.bpe` file."""


_CONTINUING = bytes(range(0x80, 0xC0))


@functools.cache
def byte_characters() -> MappingProxyType[int, str]:
    """The character that stands for each byte, in the order of the token ids 0 to 255.

    Printable characters of Latin-1 stand for themselves and come first; the other 68 bytes are given
    the characters from U+0100 on (a space is `Ġ`, a newline `Ċ`).
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return MappingProxyType(characters)


def token_ranks(merges: str) -> dict[bytes, int]:
    """Id of each token, in order of ids, without `<|endoftext|>`, which takes the next.

    Args:
        merges: contents of a `vocab.bpe` file: a version line, then one merge `left right` a line.
    """
    tokens = {character: bytes([byte]) for byte, character in byte_characters().items()}
    for line in merges.splitlines()[1:]:
        left, right = line.split()
        tokens[left + right] = tokens[left] + tokens[right]
    return {token: rank for rank, token in enumerate(tokens.values())}


def checked_merges(merges: str, name: str) -> list[str]:
    """The merges in a `vocab.bpe` file, one a line; a `ConfigError` names the line of `name` that is none.

    Both halves have been made before, and no token is made twice: then it does not matter whether an encoder
    goes by pairs, as the definition does, or by the tokens they make, as tiktoken does.
    """
    version, *lines = merges.removesuffix("\n").split("\n")
    if not version.startswith("#version"):
        raise ConfigError(f"{name} is no list of merges: its first line is {version[:40]!r}, not {VERSION_LINE!r}")
    known = set(byte_characters().values())
    for number, line in enumerate(lines, 2):
        left, space, right = line.partition(" ")
        if not space or left not in known or right not in known:
            raise ConfigError(f"line {number} of {name} is {line[:40]!r}, not two tokens that were made before it")
        if left + right in known:
            raise ConfigError(f"line {number} of {name} makes a token that there is already: {line[:40]!r}")
        known.add(left + right)
    return lines


def characters_begun(token: bytes) -> int:
    """How many characters begin in some bytes of UTF-8: all bytes but those from 0x80 to 0xBF begin one."""
    return len(token.translate(None, _CONTINUING))


def encoder_mapping(ranks: dict[bytes, int]) -> dict[str, int]:
    """The contents of OpenAI's `encoder.json`: ids by the tokens' printable characters, in order of ids."""
    characters = byte_characters()
    mapping = {"".join(characters[byte] for byte in token): rank for token, rank in ranks.items()}
    return mapping | {END_OF_TEXT: len(ranks)}
