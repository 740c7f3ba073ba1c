"""This module reads the files of datasets. A missing file, or one in another format, is a `DataError`."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt2spec.errors import DataError
from gpt2spec.files import data_errors


def read_text(path: Path, newline: str | None = None) -> str:
    """Read a file of UTF-8 text; `newline=""` leaves its line ends as they are."""
    try:
        with data_errors(path), path.open(encoding="utf-8", newline=newline) as file:
            return file.read().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error


def only_file(path: Path, *patterns: str) -> Path:
    """`path` if it is a file; in a folder, the one file that matches the first pattern for which there is any."""
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
    """The JSON objects of a file, one per line; each must have all of `keys`."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield checked(parsed(line, f"line {number} of {path}"), f"line {number} of {path}", *keys)


def json_file(path: Path, *keys: str) -> dict[str, Any]:
    """The object in a JSON file, which must have all of `keys`."""
    return checked(parsed(read_text(path), str(path)), str(path), *keys)


def parsed(text: str, place: str) -> Any:
    """Parse JSON; errors call it `place`."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{place} is not JSON: {error}") from error


def checked(found: Any, place: str, *keys: str) -> dict[str, Any]:
    """Return `found`, which must be an object with all of `keys`."""
    missing = [key for key in keys if not isinstance(found, dict) or key not in found]
    if missing:
        raise DataError(f"{place} has no {' and no '.join(map(repr, missing))}; is it a file of another dataset?")
    return found


def csv_rows(path: Path, *columns: str) -> list[dict[str, str]]:
    """The rows of a CSV file whose first line names its columns; all of `columns` must be among them."""
    rows = csv.DictReader(io.StringIO(read_text(path, newline=""), newline=""))
    missing = [column for column in columns if column not in (rows.fieldnames or ())]
    if missing:
        raise DataError(f"{path} has no column {', '.join(missing)}; is it a file of another dataset?")
    return list(rows)
