"""`SHA256SUMS` has the hashes of a folder's files, in the format of `sha256sum`, which can check them (`sha256sum -c`).

Every checkpoint folder that is written here has this file, with the hashes of all its other files. One made by somebody
else may name only some files, or files that are missing, and have the format of `sha256sum --binary` or `--tag`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gpt2spec.checkpoints.stored import read_errors
from gpt2spec.errors import CheckpointError
from gpt2spec.files import sha256_of_file

SUMS = "SHA256SUMS"
_FORMS = (
    re.compile(r"(?P<digest>[0-9a-fA-F]{64}) [ *](\./)?(?P<name>.+)"),
    re.compile(r"SHA256 \((\./)?(?P<name>.+)\) = (?P<digest>[0-9a-fA-F]{64})"),
)
_REMEDY = f"if that was meant, delete {SUMS}"


def write_sums(folder: Path, known: Mapping[str, str] | None = None) -> None:
    """Write the hashes of all files in a folder, which is otherwise complete; some hashes may be `known`."""
    names = sorted(path.name for path in folder.iterdir())
    (folder / SUMS).write_text(sums_of(folder, names, known), encoding="ascii")


def sums_of(folder: Path, names: Iterable[str], known: Mapping[str, str] | None = None) -> str:
    """The lines of `SHA256SUMS` for the given files."""
    hashes = dict(known or {})
    return "".join(f"{hashes.get(name) or sha256_of_file(folder / name)}  {name}\n" for name in names)


def recorded_sums(folder: Path) -> dict[str, str]:
    """Read the hash of each file from `SHA256SUMS`; a `CheckpointError` where it cannot be read or is damaged."""
    with read_errors(folder / SUMS):
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    sums = {}
    for number, line in enumerate(lines, 1):
        match = next((found for form in _FORMS if (found := form.fullmatch(line))), None)
        if match is not None:
            sums[match["name"]] = match["digest"]
        elif line and not line.startswith("#"):
            raise _no_sums(folder, f"line {number} is no hash with a file's name")
    if not sums:
        raise _no_sums(folder, "it has no hashes")
    return sums


def lists(folder: Path, name: str) -> bool:
    """Whether a folder has a readable `SHA256SUMS` that names this file."""
    try:
        return name in recorded_sums(folder)
    except CheckpointError:
        return False


def readable_sum(path: Path) -> str:
    """The SHA-256 of a file; a `CheckpointError` where it cannot be read."""
    with read_errors(path):
        return sha256_of_file(path)


def verify_listed(folder: Path, names: Iterable[str], sums: Mapping[str, str]) -> None:
    """Raise `CheckpointError` where a file exists and its hash differs from that in `sums`."""
    for name in names:
        path = folder / name
        if name not in sums or not path.is_file():
            continue
        if readable_sum(path) != sums[name].lower():
            raise CheckpointError(f"{path} is damaged, or was changed since {SUMS} was written: {_REMEDY}")


def verify_chosen(folder: Path, names: Sequence[str], sums: Mapping[str, str]) -> None:
    """Raise where a listed file is missing and the one that would be read in its place is not listed.

    `names` are alternative forms of one thing, the first existing one of which is read. Somebody may have listed all of
    them; it is enough that one of those exists.
    """
    there = [name for name in names if (folder / name).is_file()]
    missing = [name for name in names if name in sums and name not in there]
    if missing and not (there and there[0] in sums):
        raise CheckpointError(f"{folder / missing[0]} is missing, which {SUMS} lists: {_REMEDY}")


def _no_sums(folder: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{folder / SUMS} is damaged, or was not written by sha256sum: {reason}; if it is not needed, delete it"
    )
