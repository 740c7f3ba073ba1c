"""This module remembers which documents have been seen, in a compact set of 128-bit hashes."""

from __future__ import annotations

import hashlib

_HASH_BYTES = 16
_EMPTY = bytes(_HASH_BYTES)


class SeenTexts:
    """A set of texts, known by their 128-bit BLAKE2b hashes.

    Two different texts among 10^12 have the same hash with a probability of about 10^-15.

    It is a hash table in one `bytearray`, half full at the most: 32 to 64 bytes a text where a Python set of
    `bytes` takes about 120. Source of the scheme, linear probing: Knuth, TAOCP volume 3, 6.4 algorithm L.
    """

    def __init__(self) -> None:
        """Make an empty set."""
        self._table = bytearray(_HASH_BYTES << 10)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, digest: bytes) -> bool:
        """Add the text whose `text_hash` is `digest`. Returns whether it is new."""
        place = self._place(digest)
        if self._table[place : place + _HASH_BYTES] == digest:
            return False
        self._table[place : place + _HASH_BYTES] = digest
        self._count += 1
        if 2 * self._count * _HASH_BYTES > len(self._table):
            self._grow()
        return True

    def _place(self, digest: bytes) -> int:
        """Where in the table a hash stands, or else the free place for it."""
        table, size = self._table, len(self._table)
        place = int.from_bytes(digest[:8], "little") * _HASH_BYTES % size
        while (found := table[place : place + _HASH_BYTES]) not in (digest, _EMPTY):
            place = (place + len(found)) % size
        return place

    def _grow(self) -> None:
        old, self._table = self._table, bytearray(2 * len(self._table))
        for start in range(0, len(old), _HASH_BYTES):
            digest = bytes(old[start : start + _HASH_BYTES])
            if digest != _EMPTY:
                place = self._place(digest)
                self._table[place : place + _HASH_BYTES] = digest


def text_hash() -> hashlib.blake2b:
    """A hash to be fed with the UTF-8 bytes of a text, for `SeenTexts.add`."""
    return hashlib.blake2b(digest_size=_HASH_BYTES)
