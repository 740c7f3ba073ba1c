"""`manifest.json` says what a prepared folder holds and what it was made from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2spec.errors import DataError

MANIFEST = "manifest.json"
FORMAT = "gpt2spec dataset"
VERSION = 3
CHECKSUM = "sha256"
"""The last field of a manifest is a hash of all others."""


@dataclass(frozen=True)
class ShardEntry:
    """A shard: its file name in the folder, its number of tokens and the SHA-256 of the file."""

    file: str
    tokens: int
    sha256: str


@dataclass(frozen=True)
class SourceEntry:
    """A source: its name, relative to the folder that was given; its size on disk, in bytes; the SHA-256 of these."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class DocumentCounts:
    """How many documents there were, by what became of them.

    Attributes:
        train: in the training split.
        val: in the validation split.
        blank: left out because they have no text but white space.
        duplicates: left out because they occurred before.
        bad: rows that were left out because they are no documents.
    """

    train: int
    val: int
    blank: int = 0
    duplicates: int = 0
    bad: int = 0


@dataclass(frozen=True)
class Manifest:
    """The contents of `manifest.json`. Equal sources and settings give an equal manifest, byte for byte.

    Attributes:
        tokenizer: `Tokenizer.id` of the tokenizer.
        vocab_size: token ids run from 0 to `vocab_size - 1`.
        validation: how the validation split was chosen: "documents" (a hash of each decides), "position" (the end of
            the text), "given" (it has sources of its own) or "none".
        val_fraction: the share of the documents, or of the text, that the validation split was to have.
        seed: the seed of the choice of documents.
        unigram_entropy: entropy in nats of the distribution of tokens in both splits: the loss of a model
            that knows how common every token is and nothing else.
        train: shards of the training split, in order.
        val: shards of the validation split, in order.
        documents: how many documents there were.
        text_bytes: the length in UTF-8 of all documents that were encoded.
        sources: the sources, in order.
    """

    tokenizer: str
    vocab_size: int
    validation: str
    val_fraction: float
    seed: int
    unigram_entropy: float
    documents: DocumentCounts
    text_bytes: int
    train: tuple[ShardEntry, ...]
    val: tuple[ShardEntry, ...]
    sources: tuple[SourceEntry, ...]

    @property
    def train_tokens(self) -> int:
        """Number of tokens in the training split."""
        return sum(shard.tokens for shard in self.train)

    @property
    def val_tokens(self) -> int:
        """Number of tokens in the validation split."""
        return sum(shard.tokens for shard in self.val)

    @property
    def source_bytes(self) -> int:
        """The size of all sources on disk in bytes; compressed sources count as they are."""
        return sum(source.bytes for source in self.sources)

    def to_json(self) -> str:
        """The text of `manifest.json`. Floats are written so that they read back as the same bits."""
        fields = dataclasses.asdict(self)
        splits = {
            name: {"tokens": sum(shard["tokens"] for shard in fields[name]), "shards": fields.pop(name)}
            for name in ("train", "val")
        }
        sources = fields.pop("sources")
        contents = {"format": FORMAT, "version": VERSION, **fields, "splits": splits, "sources": sources}
        return json.dumps({**contents, CHECKSUM: _digest(contents)}, indent=2, ensure_ascii=False) + "\n"


def is_prepared(folder: Path) -> bool:
    """Whether `folder` has a manifest, which may be damaged."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a prepared folder; a missing, foreign or damaged one is a `DataError`."""
    path = folder / MANIFEST
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{folder} was not prepared: it has no {MANIFEST}; see `gpt2spec data prepare`") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}; prepare the folder again") from None
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise DataError(f"{path} was not written by `gpt2spec data prepare`: its format is not {FORMAT!r}")
    if contents.get("version") != VERSION:
        raise DataError(
            f"{path} has version {contents.get('version')!r}, but {VERSION} was expected: prepare the folder again, or "
            "use the gpt2spec that made it"
        )
    if contents.pop(CHECKSUM, None) != _digest(contents):
        raise DataError(f"{path} is damaged, or was edited: it does not match its {CHECKSUM}; prepare the folder again")
    try:
        return Manifest(
            tokenizer=str(contents["tokenizer"]),
            vocab_size=int(contents["vocab_size"]),
            validation=str(contents["validation"]),
            val_fraction=float(contents["val_fraction"]),
            seed=int(contents["seed"]),
            unigram_entropy=float(contents["unigram_entropy"]),
            documents=DocumentCounts(**{str(name): int(count) for name, count in contents["documents"].items()}),
            text_bytes=int(contents["text_bytes"]),
            train=tuple(_shard_entry(row) for row in contents["splits"]["train"]["shards"]),
            val=tuple(_shard_entry(row) for row in contents["splits"]["val"]["shards"]),
            sources=tuple(
                SourceEntry(str(row["name"]), int(row["bytes"]), str(row["sha256"])) for row in contents["sources"]
            ),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged ({type(error).__name__}: {error}); prepare the folder again") from None


def _digest(contents: dict[str, Any]) -> str:
    """SHA-256, in hexadecimal, of the contents of a manifest; its layout does not matter."""
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()


def _shard_entry(row: dict[str, Any]) -> ShardEntry:
    file = str(row["file"])
    if Path(file).name != file:  # a manifest must not reach outside its folder
        raise ValueError(f"{file!r} is no file name")
    return ShardEntry(file, int(row["tokens"]), str(row["sha256"]))
