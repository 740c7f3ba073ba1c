"""Reading the files of datasets: what is missing or of another form is a `DataError` that says so."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt2spec.errors import DataError


def read_text(path: Path, newline: str | None = None) -> str:
    """A file of UTF-8; `newline=""` leaves its line ends as they are."""
    try:
        with path.open(encoding="utf-8", newline=newline) as file:
            return file.read().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def only_file(path: Path, *patterns: str) -> Path:
    """`path` itself if it is a file, or the one file in the folder that matches the first pattern that any matches."""
    if not path.exists():
        raise DataError(f"there is no file or folder {path}")
    if path.is_file():
        return path
    for pattern in patterns:
        found = sorted(path.rglob(pattern))
        if len(found) > 1:
            raise DataError(f"{path} holds {len(found)} files {pattern}: give one of them, as {found[0]}")
        if found:
            return found[0]
    raise DataError(f"{path} holds no file {' or '.join(patterns)}")


def json_lines(path: Path, *keys: str) -> Iterator[dict[str, Any]]:
    """The objects of a file with one a line, each of which has all of `keys`."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield checked(parsed(line, f"line {number} of {path}"), f"line {number} of {path}", *keys)


def json_file(path: Path, *keys: str) -> dict[str, Any]:
    """The one object of a JSON file, with all of `keys`."""
    return checked(parsed(read_text(path), str(path)), str(path), *keys)


def parsed(text: str, place: str) -> Any:
    """JSON; `place` is what errors call it."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{place} is not JSON: {error}") from error


def checked(found: Any, place: str, *keys: str) -> dict[str, Any]:
    """`found`, if it is an object with all of `keys`."""
    missing = [key for key in keys if not isinstance(found, dict) or key not in found]
    if missing:
        raise DataError(f"{place} has no {' and no '.join(map(repr, missing))}; is it a file of another dataset?")
    return found


def csv_rows(path: Path, *columns: str) -> list[dict[str, str]]:
    """The rows of a CSV file whose first line names its columns, all of `columns` among them."""
    rows = csv.DictReader(io.StringIO(read_text(path, newline=""), newline=""))
    missing = [column for column in columns if column not in (rows.fieldnames or ())]
    if missing:
        raise DataError(f"{path} has no column {', '.join(missing)}; is it a file of another dataset?")
    return list(rows)
