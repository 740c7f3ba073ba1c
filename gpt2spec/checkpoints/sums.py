"""`SHA256SUMS`: the hashes of a folder's files, in the form of `sha256sum`, which also checks them (`sha256sum -c`).

Every checkpoint folder that is written here has one, of all its other files. One that somebody else has made may name
only some files, or such as are not there, and have the forms `sha256sum --binary` and `sha256sum --tag`.
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
    """Write the hashes of all files that stand in a folder, which is complete but for them; some may be `known`."""
    names = sorted(path.name for path in folder.iterdir())
    (folder / SUMS).write_text(sums_of(folder, names, known), encoding="ascii")


def sums_of(folder: Path, names: Iterable[str], known: Mapping[str, str] | None = None) -> str:
    """A line of `SHA256SUMS` for each of some files."""
    hashes = dict(known or {})
    return "".join(f"{hashes.get(name) or sha256_of_file(folder / name)}  {name}\n" for name in names)


def recorded_sums(folder: Path) -> dict[str, str]:
    """What `SHA256SUMS` says of each file; a `CheckpointError` where it cannot be read or is no such file."""
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
    """Whether a folder has a `SHA256SUMS` that can be read and names this file."""
    try:
        return name in recorded_sums(folder)
    except CheckpointError:
        return False


def readable_sum(path: Path) -> str:
    """The hash of a file; a `CheckpointError` where it cannot be read."""
    with read_errors(path):
        return sha256_of_file(path)


def verify_listed(folder: Path, names: Iterable[str], sums: Mapping[str, str]) -> None:
    """Raise a `CheckpointError` where one of some files, if it is there and among `sums`, has another hash."""
    for name in names:
        path = folder / name
        if name not in sums or not path.is_file():
            continue
        if readable_sum(path) != sums[name].lower():
            raise CheckpointError(f"{path} is damaged, or was changed since {SUMS} was written: {_REMEDY}")


def verify_chosen(folder: Path, names: Sequence[str], sums: Mapping[str, str]) -> None:
    """Raise where the first of `names` that is there, if any is, stands in for a listed one that is missing.

    Of several forms of one thing somebody may have listed all, and it is enough to have one.
    """
    there = [name for name in names if (folder / name).is_file()]
    missing = [name for name in names if name in sums and name not in there]
    if missing and not (there and there[0] in sums):
        raise CheckpointError(f"{folder / missing[0]} is missing, which {SUMS} lists: {_REMEDY}")


def _no_sums(folder: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{folder / SUMS} is damaged, or was not written by sha256sum: {reason}; if it is not needed, delete it"
    )
