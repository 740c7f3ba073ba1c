"""The exceptions for mistakes that a user can make; all are a `GPT2SpecError`.

The command line prints the message of a `GPT2SpecError` as one line and exits with code 2. Any other exception is a
defect of this package and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class GPT2SpecError(Exception):
    """A mistake that a user can correct. The message says what was given, what was expected and what to do."""


class ConfigError(GPT2SpecError):
    """A model, optimizer or run configuration that cannot be used."""


class InputError(GPT2SpecError):
    """Arrays or token ids with the wrong shape, dtype or range."""


class DataError(GPT2SpecError):
    """A corpus, shard or data folder that cannot be read or used."""


class CheckpointError(GPT2SpecError):
    """A checkpoint or run directory that is missing, damaged or does not fit."""


class StorageError(GPT2SpecError):
    """A file that cannot be written: no space, no permission, not a folder."""


class BackendError(GPT2SpecError):
    """A backend, device or dtype that is not available."""


class PluginError(GPT2SpecError):
    """A plugin that is missing, broken, or clashes with another."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint ` (did you mean 'x'?)` for a mistyped name, or an empty string where no name is near."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
