"""This module writes the project of a new backend from the templates in `backend/`.

The templates are the project of a backend called `mychip`; other projects differ only in the name. The names of
templates end in `.template`, so that no tool takes them for modules of this package.
"""

import importlib.util
import re
from pathlib import Path

from gpt2spec.errors import ConfigError, StorageError
from gpt2spec.files import atomic_folder, make_folder, storage_errors
from gpt2spec.plugins import backend_listings

EXAMPLE = "mychip"
"""The backend that the templates are written for; its classes begin with `Mychip`."""
_TEMPLATES = Path(__file__).with_name("backend")
_SUFFIX = ".template"
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def new_backend(name: str, folder: Path | None = None) -> Path:
    """Write the project of a new backend: a package, its tests and its continuous integration.

    Args:
        name: the backend's name; lower-case letters, digits and single underscores, beginning with a letter.
        folder: where to write it; it must not exist. By default `gpt2spec-NAME` in the current folder.

    Returns:
        The folder, which is complete.

    Raises:
        ConfigError: where the name is invalid or taken.
        StorageError: where the folder exists or cannot be written.
    """
    check_name(name)
    folder = Path(f"gpt2spec-{name}") if folder is None else folder
    with storage_errors(folder):
        if folder.exists() or folder.is_symlink():
            raise StorageError(f"{folder} exists already; give another folder with --out")
    make_folder(folder.parent)
    with atomic_folder(folder) as unfinished:
        for path, text in project_files(name).items():
            file = unfinished / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="\n")
    return folder


def check_name(name: str) -> None:
    """Raise `ConfigError` unless a new backend and its package can have this name."""
    if not _NAME.fullmatch(name):
        words = re.findall(r"[a-z0-9]+", name.lower())
        proposal = "_".join(words).lstrip("0123456789_")
        hint = f" (try {proposal!r})" if proposal else ""
        raise ConfigError(
            f"{name!r} cannot be a backend's name{hint}: lower-case letters, digits and single underscores between "
            "them, beginning with a letter"
        )
    for listing in backend_listings():
        if listing.name == name:
            raise ConfigError(f"there is a backend {name!r} already, from {listing.plugin}; choose another name")
    if importlib.util.find_spec(f"gpt2spec_{name}") is not None:
        raise ConfigError(f"there is a package 'gpt2spec_{name}' already; choose another name")


def project_files(name: str) -> dict[str, str]:
    """The text of every file of the project, by its path with forward slashes."""

    def named(text: str) -> str:
        return text.replace(EXAMPLE, name).replace(EXAMPLE.capitalize(), _class_prefix(name))

    return {
        named(path.relative_to(_TEMPLATES).as_posix().removesuffix(_SUFFIX)): named(path.read_text(encoding="utf-8"))
        for path in sorted(_TEMPLATES.rglob(f"*{_SUFFIX}"))
    }


def _class_prefix(name: str) -> str:
    """`MyChip` for `my_chip`."""
    return "".join(word.capitalize() for word in name.split("_"))
