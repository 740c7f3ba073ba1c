"""The data of a run: a training and a validation split, from a prepared folder, raw text, or Python's own."""

from __future__ import annotations

import glob
import hashlib
import json
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt2spec.data.manifest import MANIFEST, VERSION, Manifest, ShardEntry, is_prepared, read_manifest
from gpt2spec.data.prepare import SHARD_TOKENS, VAL_FRACTION, check_settings, prepare_surveyed, survey_all
from gpt2spec.data.shards import Tokens, read_shard
from gpt2spec.data.sources import Source, Survey, find_sources, text_source
from gpt2spec.errors import DataError, StorageError
from gpt2spec.files import sha256_of_file
from gpt2spec.tokenizer import Tokenizer, gpt2_tokenizer


@dataclass(frozen=True, eq=False)
class Dataset:
    """Two splits of tokens and where they come from.

    Attributes:
        name: short, for titles and file names.
        train: tokens to train on.
        val: tokens to validate on, never in `train`.
        vocab_size: token ids run from 0 to `vocab_size - 1`.
        tokenizer_id: `Tokenizer.id` of the tokenizer that made them.
        unigram_entropy: in nats: the loss of a model that knows only how common every token is.
        source: the text, in words.
        fingerprint: hash of the manifest; equal for equal text, tokenizer and settings.
        folder: where the shards are.
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

    def verify(self) -> None:
        """Read all shards and compare their SHA-256 with the manifest; a difference is a `DataError`."""
        manifest = read_manifest(self.folder)
        for shard in (*manifest.train, *manifest.val):
            path = self.folder / shard.file
            found = sha256_of_file(path)
            if found != shard.sha256:
                raise DataError(
                    f"the shard {path} is damaged: its SHA-256 is {found[:16]}…, the manifest has "
                    f"{shard.sha256[:16]}…; prepare the folder again"
                )


def open_dataset(
    source: Path | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    val_fraction: float = VAL_FRACTION,
    cache: Path | None = None,
    progress: bool = False,
) -> Dataset:
    """The data at `source`, prepared first if it is text.

    Args:
        source: a folder made by `prepare`; or a text file or a folder of `.txt` files; or None for the text of
            Python's language reference, which every Python has.
        tokenizer: for text, GPT-2's by default. A prepared folder has its own.
        val_fraction: share of the text, at the end, for validation. A prepared folder has its own.
        cache: where prepared text is kept for the next time; the user's cache folder by default.
        progress: show a progress bar on a terminal while preparing.

    Raises:
        DataError: for a source that is missing, damaged, or neither prepared nor text.
        ConfigError: for a fraction out of range.
        StorageError: when the cache cannot be written.
    """
    tokenizer = tokenizer or gpt2_tokenizer()
    if source is None:
        description = f"Python {platform.python_version()}'s language reference"
        return _open_text(
            [_language_reference()], "language-reference", description, tokenizer, val_fraction, cache, progress
        )
    if is_prepared(source):
        return open_prepared(source)
    if source.is_dir() and not any(p.suffix.lower() == ".txt" for p in source.rglob("*")):
        raise DataError(
            f"the folder {source} was not prepared (it has no {MANIFEST}) and has no .txt files; give a folder made "
            "by `gpt2spec data prepare`, or text"
        )
    name = source.resolve().name if source.is_dir() else source.stem
    return _open_text(find_sources([source]), name, str(source), tokenizer, val_fraction, cache, progress)


def open_prepared(folder: Path, name: str | None = None, source: str | None = None) -> Dataset:
    """The data in a prepared folder; the sizes of all shards are checked, their contents only by `verify`."""
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
    )


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
    val_fraction: float,
    cache: Path | None,
    progress: bool,
) -> Dataset:
    """Text through the cache: prepared on first use, and again if what is there is damaged."""
    check_settings(val_fraction, SHARD_TOKENS)
    surveys = survey_all(sources, progress)
    folder = (cache or _user_cache()) / f"{name}-{_cache_key(surveys, tokenizer, val_fraction)}"
    if is_prepared(folder):
        try:
            return open_prepared(folder, name, description)
        except DataError:
            shutil.rmtree(folder, ignore_errors=True)
    _remove_abandoned(folder.parent, name)
    try:
        prepare_surveyed(surveys, folder, tokenizer=tokenizer, val_fraction=val_fraction, progress=progress)
    except (DataError, StorageError) as error:
        if is_prepared(folder):  # another process was faster, with the same result
            return open_prepared(folder, name, description)
        if isinstance(error, StorageError):
            raise StorageError(
                f"{error}. Prepared text is kept there; set XDG_CACHE_HOME to a folder that can be written, or choose "
                "one with `gpt2spec data prepare`"
            ) from error
        raise
    return open_prepared(folder, name, description)


def _remove_abandoned(cache: Path, name: str) -> None:
    """Remove what killed preparations of the same name left behind more than a day ago."""
    for path in cache.glob(f".{glob.escape(name)}-*.tmp"):
        if time.time() - path.stat().st_mtime > 86_400:
            shutil.rmtree(path, ignore_errors=True)


def _cache_key(surveys: Sequence[Survey], tokenizer: Tokenizer, val_fraction: float) -> str:
    """A hash of everything that decides what is prepared."""
    documents = [(each.source.name, each.sha256) for each in surveys]
    settings = json.dumps([VERSION, tokenizer.id, val_fraction, SHARD_TOKENS, documents])
    return hashlib.sha256(settings.encode()).hexdigest()[:16]


def _user_cache() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("gpt2spec") / "datasets"


def _language_reference() -> Source:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError(
            "this Python comes without its language reference (pydoc_data), the text that is used when none is "
            "given; name a .txt file or a folder of them"
        ) from None
    return text_source("language-reference.txt", "\n\n".join(topics[key] for key in sorted(topics)))
