"""This module saves tokenizers as files that gpt2spec and `transformers` both load, and reads them.

merges.txt              a version line, then one merge per line, in order; the rest follows from these
vocab.json              the id of each token, which is written in printable characters
tokenizer_config.json   settings that `transformers` needs: the class, and which token is special

These are Hugging Face's names. OpenAI's `vocab.bpe` and `encoder.json`, which have the same contents, are read as well,
and so is Hugging Face's `tokenizer.json`, which holds everything in one file.
"""

import json
from pathlib import Path
from typing import Any

from gpt2spec.errors import ConfigError, nearest
from gpt2spec.files import storage_errors
from gpt2spec.tokenizer.bpe import TOKENIZERS, Tokenizer, comes_along, tokenizer_named
from gpt2spec.tokenizer.huggingface import (
    added_in_config,
    added_tokens,
    check_added,
    check_described,
    check_ids,
    described,
)
from gpt2spec.tokenizer.vocabulary import END_OF_TEXT, VERSION_LINE, checked_merges, encoder_mapping

MERGES, VOCABULARY, TRANSFORMERS = "merges.txt", "vocab.json", "tokenizer_config.json"
TOKENIZER_FILES = (MERGES, VOCABULARY, TRANSFORMERS)
FOLDER = "tokenizer"
"""The name of the folder for the tokenizer within a folder that holds other things."""

BOTH = "tokenizer.json"
ADDED = "added_tokens.json"
_PAIRS = ((MERGES, VOCABULARY), ("vocab.bpe", "encoder.json"))
READABLE = frozenset({BOTH, TRANSFORMERS, ADDED, *(name for pair in _PAIRS for name in pair)})
"""The files that a tokenizer may be read from."""
UNKNOWN = "unknown"
"""Stands in place of a tokenizer's id where the tokenizer is not known."""


def write_tokenizer(folder: Path, tokenizer: Tokenizer, n_ctx: int | None = None) -> None:
    """Write the three files into an existing folder; the caller makes the folder appear as a whole.

    `n_ctx` is written for `transformers`, which warns of longer texts.
    """
    config: dict[str, object] = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False}
    config |= {} if n_ctx is None else {"model_max_length": n_ctx}
    config |= dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    with storage_errors(folder):
        (folder / MERGES).write_bytes(tokenizer.merges)
        (folder / VOCABULARY).write_text(json.dumps(encoder_mapping(tokenizer.ranks)) + "\n", "ascii")
        (folder / TRANSFORMERS).write_text(json.dumps(config, indent=2) + "\n", encoding="ascii")


def holds_tokenizer(folder: Path) -> bool:
    """Whether a folder has merges, under any of the names."""
    return any((folder / name).is_file() for name in (BOTH, *(merges for merges, _ in _PAIRS)))


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer in a folder. Those that come with gpt2spec are recognised by their merges.

    Raises `ConfigError` for files that are missing, damaged, do not belong together, or describe a tokenizer of another
    kind than GPT-2's (see `gpt2spec.tokenizer.huggingface`).
    """
    whole = described(_json(folder / BOTH), str(folder / BOTH)) if (folder / BOTH).is_file() else None
    added = added_beside(folder, any_class=whole is not None)
    pairs = [pair for pair in _PAIRS if (folder / pair[0]).is_file()]
    if not pairs and whole is None:
        raise ConfigError(f"there is no tokenizer in {folder}: it has neither {MERGES} nor vocab.bpe nor {BOTH}")
    merges, vocabulary = pairs[0] if pairs else (BOTH, VOCABULARY)
    lines = _read(folder / merges) if whole is None or pairs else "\n".join([VERSION_LINE, *whole.merges, ""])
    tokenizer = tokenizer_of_merges(lines, str(folder / merges))
    if whole is not None:
        check_described(whole, tokenizer, str(folder / BOTH))
    if (folder / vocabulary).is_file():
        check_ids(_json(folder / vocabulary), tokenizer, str(folder / vocabulary))
    for name, tokens in added.items():
        check_added(tokens, tokenizer, str(folder / name))
    return tokenizer


def added_beside(folder: Path, any_class: bool) -> dict[str, dict[str, int]]:
    """Check the other files of a folder. Returns the tokens that each of them adds."""
    found = {}
    if (folder / TRANSFORMERS).is_file():
        contents = _json(folder / TRANSFORMERS)
        found[TRANSFORMERS] = added_in_config(contents, str(folder / TRANSFORMERS), any_class)
    if (folder / ADDED).is_file():
        found[ADDED] = added_tokens(_json(folder / ADDED), str(folder / ADDED))
    return found


def tokenizer_of_merges(merges: str, name: str) -> Tokenizer:
    """The tokenizer with the merges of a `vocab.bpe` file; those that come with gpt2spec are recognised.

    A `ConfigError` names the line of the file `name` that is no merge.
    """
    contents = "".join(f"{line}\n" for line in (VERSION_LINE, *checked_merges(merges, name))).encode()
    ours = (tokenizer_named(name) for name in TOKENIZERS)
    return next((each for each in ours if each.merges == contents), None) or Tokenizer(contents, name="bpe")


def find_tokenizer(name: str) -> Tokenizer:
    """The tokenizer that `name` means: one of `TOKENIZERS`, or the one in the folder `name` or its `tokenizer`."""
    if name in TOKENIZERS:
        return tokenizer_named(name)
    folder = Path(name)
    if not folder.is_dir():
        known = ", ".join(TOKENIZERS)
        raise ConfigError(
            f"there is no tokenizer {name!r}{nearest(name, TOKENIZERS)}: it is neither one of {known}, which come with "
            "gpt2spec, nor a folder with one"
        )
    return read_tokenizer(folder / FOLDER if (folder / FOLDER).is_dir() else folder)


def recorded_tokenizer(identifier: str, holder: Path, merges: str | None = None) -> Tokenizer:
    """The tokenizer whose `id` a dataset or checkpoint has recorded.

    It comes with gpt2spec, or else it is saved beside the data.

    Args:
        identifier: the `id`.
        holder: the folder it is saved in, or the file that has its `merges`.
        merges: the contents of its `vocab.bpe` file, where a file has them rather than a folder.

    Raises:
        ConfigError: where there is no such tokenizer, or it is damaged or has another `id`.
    """
    if comes_along(identifier):
        return next(each for each in map(tokenizer_named, TOKENIZERS) if each.id == identifier)
    if merges is None and not holds_tokenizer(holder):
        raise ConfigError(
            f"the tokenizer {identifier!r} is none of {', '.join(TOKENIZERS)}, which come with gpt2spec, and "
            f"{holder} does not hold it"
        )
    tokenizer = read_tokenizer(holder) if merges is None else tokenizer_of_merges(merges, f"the merges in {holder}")
    if tokenizer.id != identifier:
        raise ConfigError(f"the tokenizer in {holder} is {tokenizer.id}, but {identifier} was used: it was exchanged")
    return tokenizer


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged: {error}") from error
