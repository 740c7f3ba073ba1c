"""Text into token shards: `gpt2spec data prepare`.

The text is read twice, in pieces: once to count characters, check the encoding and hash it, and once to encode
it. So memory does not grow with the corpus, and a fault in the last file shows before the work begins.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from gpt2spec.data.manifest import MANIFEST, Manifest, ShardEntry, SourceEntry, is_prepared, read_manifest
from gpt2spec.data.shards import MAX_SHARD_TOKENS, MAX_VOCAB_SIZE, ShardWriter, Tokens, read_shard
from gpt2spec.data.sources import Source, Survey, find_sources, read_text, survey
from gpt2spec.errors import ConfigError, DataError
from gpt2spec.files import atomic_folder, make_folder, sha256_of_file
from gpt2spec.tokenizer import Tokenizer, gpt2_tokenizer, split_safely

VAL_FRACTION = 0.1
SHARD_TOKENS = 100_000_000
SPLITS = ("train", "val")


def prepare(
    paths: Iterable[Path],
    out: Path,
    *,
    tokenizer: Tokenizer | None = None,
    val_fraction: float = VAL_FRACTION,
    shard_tokens: int = SHARD_TOKENS,
    progress: bool = False,
) -> Manifest:
    """Encode text files into a folder of shards with a manifest, whole or not at all.

    Every file is a document and begins with `<|endoftext|>`, as in llm.c's data scripts. The end of the text is
    the validation split; where the cut falls within a document, its second part begins with one as well.

    Args:
        paths: text files, and folders whose `.txt` files are taken in order of their paths.
        out: the folder to make. One that was prepared before is replaced; any other that is not empty is refused.
        tokenizer: GPT-2's by default.
        val_fraction: share of the characters, at the end, that becomes the validation split: from 0 to below 1.
        shard_tokens: tokens in a shard.
        progress: show a progress bar on a terminal.

    Raises:
        DataError: for text that is missing, empty, unreadable or not UTF-8, and for an `out` that is in use.
        ConfigError: for a fraction or size out of range.
        StorageError: when `out` cannot be written.
    """
    check_settings(val_fraction, shard_tokens)
    check_target(out)
    surveys = survey_all(find_sources(paths), progress)
    return prepare_surveyed(
        surveys, out, tokenizer=tokenizer, val_fraction=val_fraction, shard_tokens=shard_tokens, progress=progress
    )


def survey_all(sources: Sequence[Source], progress: bool = False) -> list[Survey]:
    """Read every source once; without a single character in them it is a `DataError`."""
    with _bar("reading", None, "B", progress) as bar:
        surveys = [survey(source, bar.update) for source in sources]
    if not any(each.characters for each in surveys):
        what = sources[0].label if len(sources) == 1 else f"the {len(sources)} files, from {sources[0].label} on,"
        raise DataError(f"there is no text in {what}: nothing to train on")
    return surveys


def prepare_surveyed(
    surveys: Sequence[Survey],
    out: Path,
    *,
    tokenizer: Tokenizer | None = None,
    val_fraction: float = VAL_FRACTION,
    shard_tokens: int = SHARD_TOKENS,
    progress: bool = False,
) -> Manifest:
    """`prepare` for sources that have been read once already."""
    check_settings(val_fraction, shard_tokens)
    check_target(out)
    tokenizer = tokenizer or gpt2_tokenizer()
    if tokenizer.vocab_size > MAX_VOCAB_SIZE:
        raise ConfigError(f"shards hold ids below {MAX_VOCAB_SIZE}; {tokenizer!r} has more")
    make_folder(out.parent)
    with atomic_folder(out) as folder:
        with _bar("encoding", sum(each.characters for each in surveys), "char", progress) as bar:
            shards = _write_shards(_parts(surveys, val_fraction), folder, tokenizer, shard_tokens, bar)
        manifest = Manifest(
            tokenizer=tokenizer.id,
            vocab_size=tokenizer.vocab_size,
            val_fraction=val_fraction,
            unigram_entropy=unigram_entropy(
                Tokens(tuple(read_shard(path) for split in SPLITS for path in shards[split]), tokenizer.vocab_size)
            ),
            train=tuple(_shard_entry(path) for path in shards["train"]),
            val=tuple(_shard_entry(path) for path in shards["val"]),
            sources=tuple(SourceEntry(each.source.name, each.bytes, each.sha256) for each in surveys),
        )
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        if is_prepared(out):  # checked again: the old folder goes only when the new one is complete
            check_target(out)
            shutil.rmtree(out)
    return manifest


def check_settings(val_fraction: float, shard_tokens: int) -> None:
    """Raise `ConfigError` unless both are in range."""
    if not 0 <= val_fraction < 1:
        raise ConfigError(f"the validation fraction is from 0 to below 1, not {val_fraction}")
    if not 1 <= shard_tokens <= MAX_SHARD_TOKENS:
        raise ConfigError(f"a shard has from 1 to {MAX_SHARD_TOKENS} tokens, not {shard_tokens}")


def check_target(out: Path) -> None:
    """Raise `DataError` if preparing into `out` would overwrite anything but a folder prepared before."""
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir() or out.is_symlink():
        raise DataError(f"{out} exists and is no folder; name a new folder")
    names = {path.name for path in out.iterdir()}
    if is_prepared(out):
        manifest = read_manifest(out)
        names -= {MANIFEST, *(shard.file for shard in (*manifest.train, *manifest.val))}
        if names:
            raise DataError(f"{out} has files beside the prepared ones, such as {min(names)!r}; name a new folder")
    elif names:
        raise DataError(f"{out} exists and was not prepared by gpt2spec; name a new folder")


def unigram_entropy(tokens: Tokens) -> float:
    """-sum p log p in nats over how often each token occurs."""
    counts = np.zeros(tokens.vocab_size, np.int64)
    for block in tokens.blocks():
        counts += np.bincount(block, minlength=tokens.vocab_size)
    p = counts[counts > 0] / counts.sum()
    return float(max(0.0, -(p * np.log(p)).sum()))


class _Part(NamedTuple):
    """Characters `start` to `stop` of a document, all in one split."""

    split: str
    survey: Survey
    start: int
    stop: int


def _parts(surveys: Sequence[Survey], val_fraction: float) -> list[_Part]:
    """The documents in order, the one in which validation begins in two parts; empty ones are left out."""
    cut_document, cut = split_point(surveys, val_fraction)
    parts = []
    for i, each in enumerate(surveys):
        in_train = each.characters if i < cut_document else cut if i == cut_document else 0
        parts += [_Part("train", each, 0, in_train), _Part("val", each, in_train, each.characters)]
    return [part for part in parts if part.start < part.stop]


def split_point(surveys: Sequence[Survey], val_fraction: float) -> tuple[int, int]:
    """Document and character at which the validation split begins.

    That is after the last line break at or before the first `1 - val_fraction` of all characters; in a document
    without one, at its start, or if it is the first, after the last space before or else exactly there.
    """
    target = round((1 - val_fraction) * sum(each.characters for each in surveys))
    document = 0
    while document < len(surveys) - 1 and target >= surveys[document].characters:
        target -= surveys[document].characters
        document += 1
    if target >= surveys[document].characters:
        return document, surveys[document].characters
    after_line = after_space = position = 0
    for text in read_text(surveys[document].source, stop=target):
        after_line = position + text.rfind("\n") + 1 if "\n" in text else after_line
        after_space = position + text.rfind(" ") + 1 if " " in text else after_space
        position += len(text)
    if after_line or any(each.characters for each in surveys[:document]):
        return document, after_line
    return document, after_space or target


def _write_shards(
    parts: Sequence[_Part], folder: Path, tokenizer: Tokenizer, shard_tokens: int, bar: tqdm
) -> dict[str, list[Path]]:
    """Encode all parts into shards and return the paths of each split's."""
    writers = {split: ShardWriter(folder, split, shard_tokens) for split in SPLITS}
    try:
        for split, begins, text, ids in _encoded(parts, tokenizer):
            if begins:
                writers[split].write([tokenizer.end_of_text])
            writers[split].write(ids)
            bar.update(len(text))
    finally:
        for writer in writers.values():
            writer.close()
    return {split: writer.paths for split, writer in writers.items()}


def _encoded(parts: Iterable[_Part], tokenizer: Tokenizer) -> Iterator[tuple[str, bool, str, np.ndarray]]:
    """Split, whether a document begins, text and its ids, for the pieces of all parts in order.

    tiktoken lets other threads run while it encodes; each has one piece at a time, and a second one waiting.
    """
    pieces = ((part.split, i == 0, text) for part in parts for i, text in enumerate(_pieces(part)))
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        while batch := list(itertools.islice(pieces, 2 * workers)):
            ids = pool.map(tokenizer.encode_to_numpy, [text for _, _, text in batch])
            yield from ((split, begins, text, each) for (split, begins, text), each in zip(batch, ids, strict=True))


def _pieces(part: _Part) -> Iterator[str]:
    """The text of a part, in pieces that can be encoded by themselves."""
    count = 0
    for text in split_safely(read_text(part.survey.source, part.start, part.stop)):
        count += len(text)
        yield text
    if count != part.stop - part.start:
        raise DataError(f"{part.survey.source.label} changed while it was read; try again when nobody writes to it")


def _shard_entry(path: Path) -> ShardEntry:
    return ShardEntry(path.name, len(read_shard(path)), sha256_of_file(path))


def _bar(title: str, total: int | None, unit: str, progress: bool) -> tqdm:
    """A progress bar with rate and time left; none where the output is no terminal."""
    return tqdm(
        desc=title, total=total, unit=unit, unit_scale=True, leave=False, dynamic_ncols=True,
        disable=None if progress else True,
    )  # fmt: skip
