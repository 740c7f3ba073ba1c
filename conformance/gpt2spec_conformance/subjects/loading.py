"""This module makes the subject that the command line names."""

from __future__ import annotations

import importlib
import sys

from gpt2spec.errors import ConfigError
from gpt2spec_conformance.subjects.interface import Subject


def load_subject(path: str) -> Subject:
    """The subject that `package.module:factory` makes. Raises `ConfigError` where it does not."""
    module_name, _, factory_name = path.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"--subject takes package.module:factory; {path!r}: {error}") from None
    try:
        subject = factory()
    except TypeError as error:
        raise ConfigError(f"--subject {path}: {error}") from None
    if not isinstance(subject, Subject):
        raise ConfigError(f"{path} returned {type(subject).__name__}; a gpt2spec_conformance.Subject is expected")
    return subject


def local_subject(path: str) -> Subject:
    """Makes a subject as `load_subject` does, from modules of the current folder too, as `python -m` finds them."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    return load_subject(path)
