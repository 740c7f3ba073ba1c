"""This module reads the token files of nanoGPT and llm.c as they are.

nanoGPT writes `train.bin` and `val.bin`, bare uint16. llm.c writes files with a header (see `shards`) named like
`fineweb_train_000001.bin` and `fineweb_val_000000.bin`. Neither format records the tokenizer or a checksum. nanoGPT's
`meta.pkl` may record a tokenizer, but it is never read: it is a pickle, and reading a pickle runs the code in it.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpt2spec.data.shards import MAGIC, Tokens, read_shard
from gpt2spec.errors import DataError
from gpt2spec.files import data_errors

META = "meta.pkl"
_ENDS = 1 << 20


class TokenFiles(NamedTuple):
    """The files of both splits, in order."""

    train: list[Path]
    val: list[Path]


class Vocabulary(NamedTuple):
    """The `Tokenizer.id` of the tokenizer that made the tokens, or `UNKNOWN`; and the number of ids."""

    tokenizer_id: str
    size: int


def find_token_files(source: Path) -> TokenFiles | None:
    """The token files that `source` names, or None where it is something else.

    `source` is a folder, a file, or a glob. Files with `val` in their names are for validation; where `source` names
    none, they are looked for beside those with `train`.
    """
    if source.is_dir():
        found = [source / name for name in ("train.bin", "val.bin") if (source / name).is_file()]
        found = found or sorted([*source.glob("*_train*.bin"), *source.glob("*_val*.bin")])
    elif source.suffix == ".bin":
        names = glob.glob(str(source))  # noqa: PTH207 it may be absolute
        found = [source] if source.is_file() else sorted(map(Path, names))
    else:
        return None
    if not found:
        return None
    val = [path for path in found if "val" in path.name]
    train = [path for path in found if path not in val]
    if wrong := [path for path in train if "train" not in path.name]:
        raise DataError(f"the name of {wrong[0]} says neither train nor val; rename it, as in my_train_000000.bin")
    if not train:
        raise DataError(f"{source} has tokens for validation only: {val[0].name}; name those for training")
    if not val:
        val = sorted({match for path in train for match in _beside(path)})
    return TokenFiles(train, val)


def read_token_files(paths: Sequence[Path], vocabulary: Vocabulary) -> Tokens:
    """The tokens of the given files. A file that is visibly damaged is a `DataError`."""
    return Tokens(tuple(map(_read, paths)), vocabulary.size)


def fingerprint(files: TokenFiles, vocabulary: Vocabulary, whole: bool) -> str:
    """A hash of the files: of all bytes if `whole`, otherwise of their sizes and the megabytes at both ends."""
    digest = hashlib.sha256(repr(vocabulary).encode())
    for path in (*files.train, *files.val):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            if whole:
                digest.update(hashlib.file_digest(file, "sha256").digest())
            else:
                digest.update(file.read(_ENDS))
                file.seek(max(0, size - _ENDS))
                digest.update(file.read(_ENDS))
    return digest.hexdigest()


def _beside(path: Path) -> list[Path]:
    """The validation files that belong to a training file, by the part of its name before `train`."""
    before, _, _ = path.name.rpartition("train")
    return [other for other in path.parent.glob(f"{glob.escape(before)}val*.bin") if other.is_file()]


def _read(path: Path) -> np.ndarray:
    """The tokens of a file, which has llm.c's header, or else one of nanoGPT's two names and no header."""
    with data_errors(path):
        with path.open("rb") as file:
            start = file.read(12)
        size = path.stat().st_size
    header = np.frombuffer(start, "<i4") if len(start) == 12 else np.zeros(3, "<i4")
    # A header in which a single field is damaged is a header all the same, not the beginning of a nanoGPT file.
    has_header = bool((header[:2] == [MAGIC, 1]).any()) or int(header[2]) * 2 + 1024 == size
    if path.name not in ("train.bin", "val.bin") or has_header:
        return read_shard(path)
    if size % 2:
        raise DataError(f"{path} is damaged: bare uint16 tokens take an even number of bytes, but it has {size}")
    return np.asarray(np.memmap(path, "<u2", mode="r")) if size else np.empty(0, "<u2")
