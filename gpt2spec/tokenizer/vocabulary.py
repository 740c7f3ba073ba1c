"""This module derives the vocabulary of a byte-level BPE from its merges.

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
    """The printable character for each byte, in the order of the token ids 0 to 255.

    Printable characters of Latin-1 stand for themselves and come first; the other 68 bytes are given
    the characters from U+0100 on (a space is `Ġ`, a newline `Ċ`).
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return MappingProxyType(characters)


def token_ranks(merges: str) -> dict[bytes, int]:
    """The id of each token, in order of ids, without `<|endoftext|>`, which has the next id.

    Args:
        merges: the contents of a `vocab.bpe` file: a version line, then one merge `left right` per line.
    """
    tokens = {character: bytes([byte]) for byte, character in byte_characters().items()}
    for line in merges.splitlines()[1:]:
        left, right = line.split()
        tokens[left + right] = tokens[left] + tokens[right]
    return {token: rank for rank, token in enumerate(tokens.values())}


def checked_merges(merges: str, name: str) -> list[str]:
    """The merges in a `vocab.bpe` file, one per line. A `ConfigError` names the line of the file `name` that is none.

    In a valid merge, both halves were made before, and no token is made twice. Then it does not matter whether an
    encoder looks up pairs, as the definition does, or the tokens they make, as tiktoken does.
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
    """How many characters begin in bytes of UTF-8: every byte begins one, except those from 0x80 to 0xBF."""
    return len(token.translate(None, _CONTINUING))


def encoder_mapping(ranks: dict[bytes, int]) -> dict[str, int]:
    """The contents of OpenAI's `encoder.json`: the id of each token in printable characters, in order of ids."""
    characters = byte_characters()
    mapping = {"".join(characters[byte] for byte in token): rank for token, rank in ranks.items()}
    return mapping | {END_OF_TEXT: len(ranks)}
