"""This module opens the data of a run: a prepared folder, token files, plain text, or Python's own documentation."""

from __future__ import annotations

import glob
import hashlib
import json
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from gpt2spec.data.corpus import VAL_FRACTION, PrepareOptions
from gpt2spec.data.journal import BusyError
from gpt2spec.data.manifest import MANIFEST, VERSION, Manifest, ShardEntry, is_prepared, read_manifest
from gpt2spec.data.prepare import entropy_of, prepare_sources
from gpt2spec.data.shards import Tokens, count_tokens, read_shard
from gpt2spec.data.sources import Pass, Source, find_sources, has_text, text_source
from gpt2spec.data.token_files import (
    META,
    TokenFiles,
    Vocabulary,
    find_token_files,
    fingerprint,
    read_token_files,
)
from gpt2spec.errors import DataError, StorageError
from gpt2spec.files import data_errors, sha256_of_file
from gpt2spec.tokenizer import Tokenizer, gpt2_tokenizer

HASHED_TOKENS = 500_000_000
"""Token files without a manifest are hashed whole up to so many tokens, a gigabyte; of larger ones, only the ends."""
SAMPLED_TOKENS = 1 << 27
"""Without a manifest, the unigram entropy is estimated from so many tokens."""


class Checksum(NamedTuple):
    """The SHA-256 that a file must have, and what a user can do where it has another."""

    path: Path
    sha256: str
    remedy: str

    def verify(self, progress: Callable[[int], object] = lambda count: None) -> None:
        """Read the file and raise `DataError` where its hash differs. `progress` is called after every read."""
        with data_errors(f"the shard {self.path}"):
            found = sha256_of_file(self.path, progress)
        if found != self.sha256:
            raise DataError(
                f"the shard {self.path} is damaged: its SHA-256 is {found[:16]}…, the manifest has "
                f"{self.sha256[:16]}…; {self.remedy}"
            )

    def size(self) -> int:
        """The size of the file in bytes."""
        with data_errors(f"the shard {self.path}"):
            return self.path.stat().st_size


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a validation split, and where they come from.

    Attributes:
        name: a short name for titles and file names.
        train: tokens to train on.
        val: tokens to validate on, never in `train`.
        vocab_size: token ids run from 0 to `vocab_size - 1`.
        tokenizer_id: `Tokenizer.id` of the tokenizer that made the tokens.
        unigram_entropy: in nats, the loss of a model that knows only how common every token is.
        source: where the text comes from, for people.
        fingerprint: hash of the manifest; equal for equal text, tokenizer and settings.
        folder: where the shards are.
        checksums: the checksums of the files, where they are known.
    """

    name: str
    train: Tokens
    val: Tokens
    vocab_size: int
    tokenizer_id: str
    unigram_entropy: float
    source: str
    fingerprint: str
    folder: Path
    checksums: tuple[Checksum, ...] = ()

    def verify(self, progress: Callable[[int], object] = lambda count: None) -> None:
        """Read all shards and compare their SHA-256 with the manifest; a difference is a `DataError`."""
        for checksum in self.checksums:
            checksum.verify(progress)


def is_text(source: Path | None) -> bool:
    """Whether `open_dataset` treats `source` as text to encode, rather than as tokens."""
    return source is None or not (is_prepared(source) or find_token_files(source))


def open_dataset(
    source: Path | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    val_fraction: float = VAL_FRACTION,
    cache: Path | None = None,
    progress: bool = False,
    vocabulary: Vocabulary | None = None,
) -> Dataset:
    """Open the data at `source`; text is prepared first.

    Args:
        source: a folder made by `prepare`; or nanoGPT's or llm.c's token files (see `token_files`); or text, as
            `find_sources` takes it; or None for the text of Python's language reference, which comes with Python.
        tokenizer: encodes text; GPT-2's by default. A prepared folder has its own.
        val_fraction: the share of the text for validation (see `prepare`). A prepared folder has its own.
        cache: where prepared text is kept for the next time; the user's cache folder by default.
        progress: whether to show a progress bar on a terminal while preparing.
        vocabulary: the vocabulary of nanoGPT's or llm.c's token files; GPT-2's by default.

    Raises:
        DataError: for a source that is missing, damaged, or neither prepared nor text.
        ConfigError: for a fraction out of range.
        StorageError: when the cache cannot be written.
    """
    tokenizer = tokenizer or gpt2_tokenizer()
    options = PrepareOptions(val_fraction=val_fraction)
    if source is None:
        description = f"Python {platform.python_version()}'s language reference"
        return _open_text(
            [language_reference()], "language-reference", description, tokenizer, options, cache, progress
        )
    if is_prepared(source):
        return open_prepared(source)
    if (files := find_token_files(source)) is not None:
        return open_token_files(files, source, vocabulary)
    if source.is_dir() and not has_text(source):
        raise DataError(
            f"the folder {source} was not prepared (it has no {MANIFEST}) and has neither token files nor text; give "
            "a folder made by `gpt2spec data prepare`, or text"
        )
    name = source.resolve().name if source.is_dir() else source.name.partition(".")[0]
    return _open_text(find_sources([source]), name, str(source), tokenizer, options, cache, progress)


def open_prepared(
    folder: Path, name: str | None = None, source: str | None = None, remedy: str = "prepare the folder again"
) -> Dataset:
    """Open a prepared folder. The sizes of all shards are checked here, their contents only by `verify`."""
    manifest = read_manifest(folder)
    return Dataset(
        name=name or folder.resolve().name,
        train=_open_shards(folder, manifest.train, manifest),
        val=_open_shards(folder, manifest.val, manifest),
        vocab_size=manifest.vocab_size,
        tokenizer_id=manifest.tokenizer,
        unigram_entropy=manifest.unigram_entropy,
        source=source or str(folder),
        fingerprint=sha256_of_file(folder / MANIFEST),
        folder=folder,
        checksums=tuple(Checksum(folder / s.file, s.sha256, remedy) for s in (*manifest.train, *manifest.val)),
    )


def open_token_files(files: TokenFiles, source: Path, vocabulary: Vocabulary | None = None) -> Dataset:
    """Open nanoGPT's or llm.c's token files. Their ids are taken for GPT-2's unless a vocabulary is given.

    A `meta.pkl` beside them says that they are not GPT-2's; without a vocabulary, that is a `DataError`.
    """
    folder = files.train[0].parent
    if vocabulary is None:
        if (folder / META).exists():
            raise DataError(
                f"{folder} has a {META}, so its tokens are not GPT-2's; it is a pickle, which is never read: give the "
                "number of ids with --set model.vocab_size=N, or name the tokenizer with --tokenizer"
            )
        vocabulary = Vocabulary(gpt2_tokenizer().id, gpt2_tokenizer().vocab_size)
    train, val = (read_token_files(paths, vocabulary) for paths in files)
    return Dataset(
        name=source.resolve().name if source.is_dir() else files.train[0].stem,
        train=train,
        val=val,
        vocab_size=vocabulary.size,
        tokenizer_id=vocabulary.tokenizer_id,
        unigram_entropy=entropy_of(count_tokens(first_tokens(train))),
        source=str(source),
        fingerprint=fingerprint(files, vocabulary, whole=len(train) + len(val) <= HASHED_TOKENS),
        folder=folder,
    )


def first_tokens(tokens: Tokens) -> Tokens:
    """The first `SAMPLED_TOKENS` of a split, from which the unigram entropy is estimated."""
    shards, room = [], SAMPLED_TOKENS
    for shard in tokens.shards:
        shards.append(shard[:room])
        room -= len(shards[-1])
    return Tokens(tuple(shards), tokens.vocab_size)


def _open_shards(folder: Path, entries: Sequence[ShardEntry], manifest: Manifest) -> Tokens:
    shards = tuple(read_shard(folder / entry.file) for entry in entries)
    for entry, shard in zip(entries, shards, strict=True):
        if len(shard) != entry.tokens:
            raise DataError(
                f"the shard {folder / entry.file} has {len(shard)} tokens, the manifest says {entry.tokens}; "
                "prepare the folder again"
            )
    return Tokens(shards, manifest.vocab_size)


def _open_text(
    sources: Sequence[Source],
    name: str,
    description: str,
    tokenizer: Tokenizer,
    options: PrepareOptions,
    cache: Path | None,
    progress: bool,
) -> Dataset:
    """Open text through the cache: it is prepared on first use, and again if the cached data is damaged."""
    folder = (cache or _user_cache()) / f"{name}-{_cache_key(sources, tokenizer, options)}"
    remedy = f"remove the folder {folder}, and it is made again"
    if is_prepared(folder):
        try:
            return open_prepared(folder, name, description, remedy)
        except DataError:
            shutil.rmtree(folder, ignore_errors=True)
    _remove_abandoned(folder.parent, name)
    while not is_prepared(folder):
        try:
            prepare_sources(sources, folder, options, tokenizer=tokenizer, progress=progress)
        except BusyError:  # another process is at it, with the same result
            time.sleep(0.2)
        except StorageError as error:
            raise StorageError(
                f"{error}. Prepared text is kept there; set XDG_CACHE_HOME to a folder that can be written, or choose "
                "one with `gpt2spec data prepare`"
            ) from error
    return open_prepared(folder, name, description, remedy)


def _remove_abandoned(cache: Path, name: str) -> None:
    """Remove what killed preparations with this name left behind more than a day ago."""
    for pattern in ("tmp", "preparing"):
        for path in cache.glob(f".{glob.escape(name)}-*.{pattern}"):
            if time.time() - path.stat().st_mtime > 86_400:
                shutil.rmtree(path, ignore_errors=True)


def _cache_key(sources: Sequence[Source], tokenizer: Tokenizer, options: PrepareOptions) -> str:
    """A hash of everything that decides what is prepared; the sources are read for it."""
    contents = json.dumps([VERSION, tokenizer.id, asdict(options), list(map(_name_and_hash, sources))])
    return hashlib.sha256(contents.encode()).hexdigest()[:16]


def _name_and_hash(source: Source) -> tuple[str, str]:
    if source.stream:
        raise DataError(f"{source.label} can be read only once; use `gpt2spec data prepare` first")
    reading = Pass(source)
    for _ in reading.stored():
        pass
    return source.name, reading.sha256


def _user_cache() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("gpt2spec") / "datasets"


def language_reference() -> Source:
    """The text of Python's language reference. Raises `DataError` where Python was installed without it."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError(
            "this Python comes without its language reference (pydoc_data), the text that is used when none is "
            "given; name a .txt file or a folder of them"
        ) from None
    return text_source("language-reference.txt", "\n\n".join(topics[key] for key in sorted(topics)))
