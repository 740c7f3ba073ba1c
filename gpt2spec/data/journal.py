"""Where a preparation is made, and how far it has come, so that one that was killed is gone on with.

The folder `.NAME.preparing` beside the one to be made holds the shards so far. Every half minute they are synced and
`journal.json` is replaced: how many pieces of text are encoded, which shards are finished, and how many tokens are
in the shards after them. Whoever goes on cuts off what was written later, reads the sources again up to that piece,
which takes a small part of the time that encoding them took, and encodes the rest: the result is that of a preparation
that was never stopped, byte for byte.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gpt2spec.data.manifest import ShardEntry
from gpt2spec.data.shards import ShardWriter
from gpt2spec.errors import DataError
from gpt2spec.files import atomic_write, make_folder, storage_errors
from gpt2spec.locks import held

JOURNAL = "journal.json"
JOURNAL_SECONDS = 30.0
"""At most so much work is done again."""


class BusyError(DataError):
    """Another process is preparing the same folder."""


@dataclass(frozen=True)
class Journal:
    """How far a preparation has come.

    Attributes:
        key: of the sources and settings; only with the same can it be gone on with.
        pieces: how many texts are encoded.
        finished: the finished shards of each split.
        tails: tokens after them, and the SHA-256 of the file that these are in.
    """

    key: str
    pieces: int
    finished: Mapping[str, list[ShardEntry]]
    tails: Mapping[str, tuple[int, str]]

    def write(self, folder: Path) -> None:
        """Replace the journal in `folder`."""
        with atomic_write(folder / JOURNAL) as file:
            file.write(json.dumps(dataclasses.asdict(self)).encode())


def read_journal(folder: Path, key: str) -> Journal | None:
    """The journal in `folder`, if there is one for `key`."""
    try:
        contents = json.loads((folder / JOURNAL).read_bytes())
        shards = {split: [ShardEntry(**row) for row in rows] for split, rows in contents["finished"].items()}
        tails = {split: (tokens, sha256) for split, (tokens, sha256) in contents["tails"].items()}
        journal = Journal(contents["key"], contents["pieces"], shards, tails)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return journal if journal.key == key else None


def resumed(folder: Path, key: str, writers: Mapping[str, ShardWriter]) -> int:
    """Bring the writers to where the journal says, and return the number of pieces that are encoded.

    Raises `DataError` where that cannot be: there is nothing to go on with.
    """
    journal = read_journal(folder, key)
    if journal is None:
        raise DataError("there is no journal")
    for split, writer in writers.items():
        if not writer.resume(journal.finished.get(split, []), *journal.tails.get(split, (0, ""))):
            raise DataError(f"the shards of {split} are not what the journal says")
    return journal.pieces


@contextlib.contextmanager
def workplace(out: Path) -> Iterator[Path]:
    """The folder in which `out` is prepared, for this process alone.

    After an error it stays if there is a journal in it, so that the work can be gone on with.
    """
    folder = out.parent / f".{out.name}.preparing"
    make_folder(out.parent)
    with _locked(folder):
        try:
            yield folder
        except BaseException:
            if not (folder / JOURNAL).is_file():
                shutil.rmtree(folder, ignore_errors=True)
            raise


def is_kept(out: Path) -> bool:
    """Whether there is a preparation of `out` to go on with."""
    try:
        return (out.parent / f".{out.name}.preparing" / JOURNAL).is_file()
    except OSError:  # a name that is too long
        return False


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder, made where it is missing, and locked where the system can lock folders."""
    with storage_errors(folder):
        folder.mkdir(exist_ok=True)
    busy = f"another process is preparing {folder.name.removeprefix('.').removesuffix('.preparing')} in {folder.parent}"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held(folder))
        except (BlockingIOError, FileNotFoundError):  # the latter: of a preparation that has just been completed
            raise BusyError(busy) from None
        yield
