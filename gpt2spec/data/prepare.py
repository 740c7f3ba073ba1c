"""This module encodes text into token shards, for `gpt2spec data prepare`.

The text is read once, in pieces, while all cores encode the pieces read before. So memory does not grow with the
corpus.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from gpt2spec.byte_progress import ByteProgress
from gpt2spec.data.corpus import Corpus, PrepareOptions
from gpt2spec.data.journal import JOURNAL, JOURNAL_SECONDS, Journal, is_kept, resumed, workplace
from gpt2spec.data.manifest import MANIFEST, VERSION, Manifest, ShardEntry, is_prepared, read_manifest
from gpt2spec.data.shards import MAX_VOCAB_SIZE, ShardWriter
from gpt2spec.data.sources import Source, find_sources
from gpt2spec.data.validation_tail import cut_off_the_end
from gpt2spec.errors import ConfigError, DataError, StorageError
from gpt2spec.files import publish_folder, storage_errors
from gpt2spec.tokenizer import Tokenizer, comes_along, gpt2_tokenizer, write_tokenizer
from gpt2spec.tokenizer.parallel import encode_labelled
from gpt2spec.tokenizer.saved import TOKENIZER_FILES

SPLITS = ("train", "val")


def prepare(
    paths: Iterable[Path],
    out: Path,
    options: PrepareOptions | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    validation: Iterable[Path] = (),
    encoder: str = "tiktoken",
    progress: bool = False,
) -> Manifest:
    """Encode text into a folder of shards with a manifest, whole or not at all.

    Every document begins with `<|endoftext|>`, as in llm.c's data scripts. A hash decides which documents are for
    validation. Where that leaves training or validation without any, as it does with a single document, the end of
    the text becomes the validation split instead (`gpt2spec.data.validation_tail`).

    Args:
        paths: what `find_sources` takes.
        out: the folder to make. One that was prepared before is replaced; any other that is not empty is refused.
        options: how text is divided into documents, and what becomes of them.
        tokenizer: GPT-2's by default.
        validation: sources whose documents are the validation split; all others are then for training.
        encoder: the library that encodes, see `encode_stream`; the tokens are the same.
        progress: whether to show on standard error how far the work is.

    Raises:
        DataError: for text that is missing, empty, unreadable or not UTF-8, and for an `out` that is in use.
        ConfigError: for options out of range, or a library that is missing.
        StorageError: when `out` cannot be written. The work so far is kept beside it, and the same call resumes it.
    """
    options = options or PrepareOptions()
    check_target(out)
    given = list(validation)
    return prepare_sources(
        find_sources(paths, options.format),
        out,
        options,
        tokenizer=tokenizer,
        validation=find_sources(given, options.format) if given else [],
        encoder=encoder,
        progress=progress,
    )


def prepare_sources(
    sources: Sequence[Source],
    out: Path,
    options: PrepareOptions,
    *,
    tokenizer: Tokenizer | None = None,
    validation: Sequence[Source] = (),
    encoder: str = "tiktoken",
    progress: bool = False,
) -> Manifest:
    """Do the work of `prepare` for sources that have been found."""
    check_target(out)
    tokenizer = tokenizer or gpt2_tokenizer()
    if tokenizer.vocab_size > MAX_VOCAB_SIZE:
        raise ConfigError(f"shards hold ids below {MAX_VOCAB_SIZE}; {tokenizer!r} has more")
    if not options.drop_duplicates:
        _check_held_out(sources, validation)
    if sum(source.stream for source in (*sources, *validation)) > 1:
        raise DataError("only one of the sources can be a stream; give files for the others")
    try:
        with workplace(out) as folder:
            corpus = Corpus(sources, options, validation, spool=folder)
            preparation = _Preparation(
                corpus, folder, options, tokenizer, _key(sources, validation, options, tokenizer)
            )
            preparation.encode(encoder, progress)
            manifest = preparation.finish(given=bool(validation))
            _install(folder, out)
    except StorageError as error:
        kept = ". What has been done is kept: make room and run the same command again" if is_kept(out) else ""
        raise StorageError(f"{error}{kept}") from error
    return manifest


def check_target(out: Path) -> None:
    """Raise `DataError` if preparing into `out` would overwrite anything but a folder prepared before."""
    with storage_errors(out):
        if not out.exists() and not out.is_symlink():
            return
    if not out.is_dir() or out.is_symlink():
        raise DataError(f"{out} exists and is no folder; name a new folder")
    names = {path.name for path in out.iterdir()}
    if is_prepared(out):
        manifest = read_manifest(out)
        names -= {MANIFEST, *TOKENIZER_FILES, *(shard.file for shard in (*manifest.train, *manifest.val))}
        if names:
            raise DataError(f"{out} has files beside the prepared ones, such as {min(names)!r}; name a new folder")
    elif names:
        raise DataError(f"{out} exists and was not prepared by gpt2spec; name a new folder")


def entropy_of(counts: np.ndarray) -> float:
    """The entropy -sum p log p in nats of a distribution, given how often each token occurs [V]."""
    p = counts[counts > 0] / counts.sum()
    return float(max(0.0, -(p * np.log(p)).sum()))


def _check_held_out(sources: Sequence[Source], validation: Sequence[Source]) -> None:
    """Raise `DataError` for a file that is given for both training and validation."""
    held_out = {source.path.resolve() for source in validation if source.path and source.path.exists()}
    for source in sources if held_out else ():
        if source.path and source.path.exists() and source.path.resolve() in held_out:
            raise DataError(
                f"{source.label} is given for training and for validation: leave it out of one of them, or keep its "
                "documents out of training with --drop-duplicates"
            )


class _Preparation:
    """The work of encoding one corpus into shards."""

    def __init__(
        self, corpus: Corpus, folder: Path, options: PrepareOptions, tokenizer: Tokenizer, key: str | None
    ) -> None:
        self._corpus, self._folder, self._options, self._tokenizer = corpus, folder, options, tokenizer
        self._key = key
        self._pieces = 0
        self._writers = self._new_writers()

    def encode(self, encoder: str, progress: bool) -> None:
        """Write the tokens of all documents, from where the journal says."""
        self._begin()
        mark = np.array([self._tokenizer.end_of_text], np.uint16)
        written = time.monotonic()
        pieces = self._corpus.pieces()
        with ByteProgress("encoding", self._corpus.total_bytes, quiet=not progress) as bar:
            for piece, _ in itertools.islice(pieces, self._pieces):  # these are encoded already
                bar.reach(piece.offset)
            try:
                for piece, ids in encode_labelled(self._tokenizer, pieces, encoder=encoder):
                    writer = self._writers[piece.split]
                    if piece.begins:
                        writer.write(mark)
                    writer.write(ids)
                    self._pieces += 1
                    bar.reach(piece.offset)
                    if time.monotonic() - written >= JOURNAL_SECONDS:
                        self._write_journal()
                        written = time.monotonic()
                for writer in self._writers.values():
                    writer.close()
            except BaseException:
                for writer in self._writers.values():
                    writer.abandon()
                raise

    def finish(self, given: bool) -> Manifest:
        """Make the validation split from the end of the text where there is none yet, and write the manifest."""
        shards = {split: writer.finished for split, writer in self._writers.items()}
        if not any(shards.values()):
            raise DataError(self._corpus.complaint())
        counts = sum(writer.counts for writer in self._writers.values())
        rule = "given" if given else "documents" if self._options.val_fraction else "none"
        if rule == "documents" and not all(shards.values()):
            shards, change = self._validation_from_tail(next(filter(None, shards.values())))
            rule, counts = "position", counts + change
        manifest = Manifest(
            tokenizer=self._tokenizer.id,
            vocab_size=self._tokenizer.vocab_size,
            validation=rule,
            val_fraction=0.0 if given else self._options.val_fraction,
            seed=self._options.seed,
            unigram_entropy=entropy_of(np.asarray(counts)),
            documents=self._corpus.counts(),
            text_bytes=self._corpus.text_bytes,
            train=tuple(shards["train"]),
            val=tuple(shards["val"]),
            sources=tuple(self._corpus.entries),
        )
        with storage_errors(self._folder / MANIFEST):
            (self._folder / JOURNAL).unlink(missing_ok=True)
            if not comes_along(self._tokenizer.id):
                write_tokenizer(self._folder, self._tokenizer)
            (self._folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        return manifest

    def _begin(self) -> None:
        """Resume from the journal, or begin in an empty folder."""
        try:
            if self._key is None:
                raise DataError("a stream cannot be read again")
            self._pieces = resumed(self._folder, self._key, self._writers)
        except DataError:
            for writer in self._writers.values():
                writer.abandon()
            self._pieces, self._writers = 0, self._new_writers()
            keep: set[Path] = set()
        else:
            keep = {self._folder / JOURNAL, *(path for writer in self._writers.values() for path in writer.paths())}
        with storage_errors(self._folder):
            for path in self._folder.iterdir():
                if path not in keep:
                    path.unlink()

    def _write_journal(self) -> None:
        """Write to the journal how far the work is."""
        if self._key is None:
            return
        for writer in self._writers.values():
            writer.sync()
        writers = self._writers.items()
        finished = {split: writer.finished for split, writer in writers}
        tails = {split: (writer.tail, writer.tail_sha256) for split, writer in writers}
        Journal(self._key, self._pieces, finished, tails).write(self._folder)

    def _new_writers(self) -> dict[str, ShardWriter]:
        vocab_size = self._tokenizer.vocab_size
        return {split: ShardWriter(self._folder, split, self._options.shard_tokens, vocab_size) for split in SPLITS}

    def _validation_from_tail(self, shards: list[ShardEntry]) -> tuple[dict[str, list[ShardEntry]], np.ndarray]:
        """Make the end of all `shards` the validation split.

        Returns the new shards of both splits, and how often each token occurs in them, less how often it did before.
        """
        options, characters = self._options, self._corpus.characters
        head, tail, kept, change = cut_off_the_end(
            self._folder, shards, self._tokenizer, options.val_fraction, characters, options.shard_tokens
        )
        with storage_errors(self._folder):
            (self._folder / JOURNAL).unlink(missing_ok=True)  # from here on the shards do not match it
            for shard in shards[kept:]:
                (self._folder / shard.file).unlink()
            train = self._renamed([*shards[:kept], *head.finished], "train")
            return {"train": train, "val": self._renamed(tail.finished, "val")}, change

    def _renamed(self, shards: Sequence[ShardEntry], split: str) -> list[ShardEntry]:
        entries = [replace(shard, file=f"{split}_{i:06d}.bin") for i, shard in enumerate(shards)]
        for shard, entry in zip(shards, entries, strict=True):
            (self._folder / shard.file).rename(self._folder / entry.file)
        return entries


def _key(
    sources: Sequence[Source], validation: Sequence[Source], options: PrepareOptions, tokenizer: Tokenizer
) -> str | None:
    """A hash of everything that decides the result; None where some sources are streams, which cannot be read again."""
    files = []
    for source in (*validation, *sources):
        if source.path is None or not source.path.exists():
            return None
        state = source.path.stat()
        # ctime notices a file that was replaced by another with the same size and modification time.
        times = state.st_mtime_ns, state.st_ctime_ns
        files.append([str(source.path.resolve()), source.name, source.format, state.st_size, *times])
    settings = asdict(options) | {"skip_bad": None}  # this may change when the work is resumed
    contents = json.dumps([VERSION, tokenizer.id, settings, len(validation), files])
    return hashlib.sha256(contents.encode()).hexdigest()


def _install(folder: Path, out: Path) -> None:
    """Give the finished folder its name, which an older prepared folder keeps until then."""
    check_target(out)
    publish_folder(folder, out, replace=is_prepared(out))
