"""Known failures stand in a TOML file that gives a reason and a link for each."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from gpt2spec.errors import ConfigError, nearest
from gpt2spec_conformance.cases import all_cases


@dataclass(frozen=True)
class ExpectedFailure:
    """The reason of a known failure, and a link to where it is being worked on."""

    reason: str
    link: str


def read_expected(path: Path) -> dict[str, ExpectedFailure]:
    """The expected failures in a TOML file, by case id.

    The file has a table `[[expected]]` for each, with `id`, `reason` and `link`. Raises `ConfigError` for a file
    that cannot be read, an entry without one of them, and a case that the suite does not have.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read the expected failures in {path}: {error}") from None
    entries = table.get("expected")
    if set(table) - {"expected"} or not isinstance(entries, list):
        raise ConfigError(f"{path} must hold a table [[expected]] with id, reason and link for each failure")
    found: dict[str, ExpectedFailure] = {}
    for number, entry in enumerate(entries, 1):
        id, known = _expected_failure(entry, f"entry {number} of {path}")
        if id in found:
            raise ConfigError(f"{path} has case {id} twice")
        found[id] = known
    return found


def _expected_failure(entry: object, where: str) -> tuple[str, ExpectedFailure]:
    keys = ("id", "reason", "link")
    if not isinstance(entry, dict) or set(entry) - set(keys):
        raise ConfigError(f"{where} must have id, reason and link and nothing else")
    for key in keys:
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise ConfigError(f"{where} has no {key}; an expected failure needs id, reason and link")
    ids = [case.id for case in all_cases()]
    if entry["id"] not in ids:
        raise ConfigError(f"{where}: there is no case {entry['id']!r}{nearest(entry['id'], ids)}")
    return cast(str, entry["id"]), ExpectedFailure(entry["reason"], entry["link"])
