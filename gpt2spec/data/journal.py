"""The journal of a preparation, from which a preparation that was killed is resumed.

The folder `.NAME.preparing`, beside the folder to be made, holds the shards so far. Every half minute they are synced
to the disk and `journal.json` is replaced. It says how many pieces of text are encoded, which shards are finished, and
how many tokens are in the unfinished ones. To resume, what was written later is cut off, the sources are read again up
to that piece, which is much faster than encoding them, and the rest is encoded. The result is the same, byte for byte,
as that of a preparation that was never stopped.
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
"""Seconds between two journals: at most so much work is done again."""


class BusyError(DataError):
    """Another process is preparing the same folder."""


@dataclass(frozen=True)
class Journal:
    """How far a preparation has come.

    Attributes:
        key: a hash of the sources and settings; a preparation is resumed only with the same ones.
        pieces: how many texts are encoded.
        finished: the finished shards of each split.
        tails: for each split, the number of tokens in the unfinished shard, and the SHA-256 of its file.
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
    """The journal in `folder`, or None where there is none for `key`."""
    try:
        contents = json.loads((folder / JOURNAL).read_bytes())
        shards = {split: [ShardEntry(**row) for row in rows] for split, rows in contents["finished"].items()}
        tails = {split: (tokens, sha256) for split, (tokens, sha256) in contents["tails"].items()}
        journal = Journal(contents["key"], contents["pieces"], shards, tails)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return journal if journal.key == key else None


def resumed(folder: Path, key: str, writers: Mapping[str, ShardWriter]) -> int:
    """Put the writers into the state that the journal records. Returns how many pieces are encoded.

    Raises `DataError` where there is no journal or the shards do not match it.
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
    """The folder in which `out` is prepared, locked for this process.

    After an error the folder stays if it has a journal, so that the work can be resumed.
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
    """Whether there is an unfinished preparation of `out` that can be resumed."""
    try:
        return (out.parent / f".{out.name}.preparing" / JOURNAL).is_file()
    except OSError:  # a name that is too long
        return False


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make the folder where it is missing, and lock it where the system can lock folders."""
    with storage_errors(folder):
        folder.mkdir(exist_ok=True)
    busy = f"another process is preparing {folder.name.removeprefix('.').removesuffix('.preparing')} in {folder.parent}"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held(folder))
        except (BlockingIOError, FileNotFoundError):  # the latter: that preparation has just been completed
            raise BusyError(busy) from None
        yield
