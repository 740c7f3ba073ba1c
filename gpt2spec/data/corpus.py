"""This module reads all documents in order and decides which are left out, and which are for validation."""

from __future__ import annotations

import codecs
import hashlib
import itertools
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gpt2spec.data.duplicates import SeenTexts, text_hash
from gpt2spec.data.formats import BadRows, Fragment, fragments
from gpt2spec.data.manifest import DocumentCounts, SourceEntry
from gpt2spec.data.shards import MAX_SHARD_TOKENS
from gpt2spec.data.sources import CHUNK_BYTES, Pass, Source
from gpt2spec.errors import ConfigError
from gpt2spec.random import stream_key
from gpt2spec.tokenizer import split_safely

VAL_FRACTION = 0.1
SHARD_TOKENS = 100_000_000
BEGINNING = 1 << 16
"""How many characters of a document decide its split; most documents have fewer, so that all of them count."""

_PIECE = 1 << 17
_IN_MEMORY = 1 << 25
"""While it is not known whether a document is a duplicate, so many bytes of it are kept in memory, more in a file."""


@dataclass(frozen=True)
class PrepareOptions:
    """Settings of a preparation: how text is divided into documents, and what becomes of them.

    Attributes:
        field: the field of JSON lines, or the column of CSV and Parquet, that holds the text.
        format: one of `FORMATS`, whatever the names of the files say; None follows the names.
        split_on: what separates documents in plain text; None where each file is one.
        val_fraction: the share of the documents that becomes the validation split, from 0 to below 1.
        seed: decides which documents these are.
        drop_duplicates: whether a document that has occurred before is left out.
        skip_bad: whether rows that are no documents are counted and left out; otherwise they are errors.
        shard_tokens: the number of tokens in a shard.
    """

    field: str = "text"
    format: str | None = None
    split_on: str | None = None
    val_fraction: float = VAL_FRACTION
    seed: int = 0
    drop_duplicates: bool = False
    skip_bad: bool = False
    shard_tokens: int = SHARD_TOKENS

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise ConfigError(f"the validation fraction is from 0 to below 1, not {self.val_fraction}")
        if not 1 <= self.shard_tokens <= MAX_SHARD_TOKENS:
            raise ConfigError(f"a shard has from 1 to {MAX_SHARD_TOKENS} tokens, not {self.shard_tokens}")
        if self.split_on == "":
            raise ConfigError("documents cannot be separated by an empty text; give what stands between them")
        stream_key(self.seed, "validation split")  # refuses a wrong seed


class Piece(NamedTuple):
    """Some text of a document that can be encoded by itself.

    Attributes:
        split: "train" or "val".
        begins: whether the document begins with it.
        offset: the bytes of all sources, as they are on disk, up to the end of this piece.
    """

    split: str
    begins: bool
    offset: int


class Corpus:
    """The documents of some sources, read once.

    Attributes:
        entries: an entry for each source that has been read to its end.
        text_bytes: the length of all documents in UTF-8.
        characters: the length of all documents in characters.
        bad: the rows that are no documents.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        options: PrepareOptions,
        validation: Sequence[Source] = (),
        spool: Path | None = None,
    ) -> None:
        """Prepare to read `sources`. The sources for `validation`, if there are any, are that split and come first.

        Very long documents are kept in a file in the folder `spool` until it is known that they are no duplicates.
        """
        self.entries: list[SourceEntry] = []
        self.text_bytes = self.characters = 0
        self.bad = BadRows(options.skip_bad)
        self._options, self._spool = options, spool
        self._sources = [
            *((each, "val") for each in validation),
            *((each, "train" if validation else "") for each in sources),
        ]
        self._split_key = stream_key(options.seed, "validation split").to_bytes(16, "little")
        self._seen = SeenTexts()
        self._documents: Counter[str] = Counter()

    def counts(self) -> DocumentCounts:
        """How many documents there have been so far, by what became of them."""
        found = self._documents
        return DocumentCounts(found["train"], found["val"], found["blank"], found["duplicate"], self.bad.count)

    @property
    def total_bytes(self) -> int | None:
        """The size of all sources as they are on disk; None where some are streams."""
        paths = [source.path for source, _ in self._sources]
        return None if None in paths else sum(path.stat().st_size for path in paths if path and path.exists())

    def complaint(self) -> str:
        """Why there is nothing to encode."""
        labels = [source.label for source, _ in self._sources]
        what = labels[0] if len(labels) == 1 else f"the {len(labels)} files, from {labels[0]} on,"
        why = f"; all rows are bad: {self.bad.first}" if self.bad.first else ""
        return f"there is no text in {what}: nothing to train on{why}"

    def pieces(self) -> Iterator[tuple[Piece, str]]:
        """All texts to encode, each with the split that its tokens belong to."""
        before = 0
        for source, split in self._sources:
            reading = Pass(source)
            for document in _by_document(fragments(reading, self._options.field, self._options.split_on, self.bad)):
                for begins, split_of_document, text in self._document(document, split):
                    yield Piece(split_of_document, begins, before + reading.offset), text
            self.entries.append(SourceEntry(source.name, reading.bytes, reading.sha256))
            before += reading.bytes

    def _document(self, texts: Iterator[str], split: str) -> Iterator[tuple[bool, str, str]]:
        """The pieces of a document, unless it is left out: (whether the document begins here, its split, text)."""
        beginning = _characters(texts, BEGINNING)
        whole = len(beginning) < BEGINNING
        if whole and (not beginning or beginning.isspace()):
            self._documents["blank"] += 1
            return
        data = beginning.encode()
        if self._options.drop_duplicates:
            texts, is_new = self._looked_up(data, texts)
            if not is_new:
                self._documents["duplicate"] += 1
                return
        split = split or self._drawn(data if whole else beginning[:BEGINNING].encode())
        self._documents[split] += 1
        begins = True
        for text in (beginning,) if whole else split_safely(_slices(itertools.chain([beginning], texts))):
            self.characters += len(text)
            self.text_bytes += len(data if whole else text.encode())
            yield begins, split, text
            begins = False

    def _drawn(self, beginning: bytes) -> str:
        """The split of a document. A hash of its beginning in UTF-8 decides, so equal documents are never in both."""
        if self._options.val_fraction == 0:
            return "train"
        digest = hashlib.blake2b(beginning, digest_size=8, key=self._split_key).digest()
        return "val" if int.from_bytes(digest, "little") < self._options.val_fraction * 2.0**64 else "train"

    def _looked_up(self, beginning: bytes, rest: Iterator[str]) -> tuple[Iterator[str], bool]:
        """The text after the beginning of a document, which may be read once more, and whether the document is new."""
        digest = text_hash()
        digest.update(beginning)
        first = next(rest, None)
        if first is None:
            return iter(()), self._seen.add(digest.digest())
        folder = None if self._spool is None else str(self._spool)
        spool = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=folder)  # noqa: SIM115 closed when it has been read
        for text in itertools.chain([first], rest):
            data = text.encode()
            digest.update(data)
            spool.write(data)
        if not self._seen.add(digest.digest()):
            spool.close()
            return iter(()), False
        return _spooled(spool), True


def _spooled(file: tempfile.SpooledTemporaryFile[bytes]) -> Iterator[str]:
    """The text in a temporary file, which is closed at its end, or when the iterator is."""
    with file:
        file.seek(0)
        decoder = codecs.getincrementaldecoder("utf-8")()
        while data := file.read(CHUNK_BYTES):
            yield decoder.decode(data)


def _by_document(fragments: Iterable[Fragment]) -> Iterator[Iterator[str]]:
    """The texts of each document, which must be read before those of the next."""
    number = itertools.count()
    current = next(number)

    def document(fragment: Fragment) -> int:
        nonlocal current
        current = next(number) if fragment[0] else current
        return current

    return ((text for _, text in group) for _, group in itertools.groupby(fragments, document))


def _characters(texts: Iterator[str], count: int) -> str:
    """The first `count` characters or somewhat more, or all where there are fewer."""
    gathered: list[str] = []
    size = 0
    while size < count and (text := next(texts, None)) is not None:
        gathered.append(text)
        size += len(text)
    return gathered[0] if len(gathered) == 1 else "".join(gathered)


def _slices(texts: Iterable[str]) -> Iterator[str]:
    """Divide the text into slices that are short enough for every core to have one."""
    return (text[i : i + _PIECE] for text in texts for i in range(0, len(text), _PIECE))
