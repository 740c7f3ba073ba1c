"""Tokenizers as files: a folder that gpt2spec and `transformers` both load.

merges.txt              a version line, then one merge a line, in order: all there is to know
vocab.json              ids by the tokens' printable characters, which follow from the merges
tokenizer_config.json   what `transformers` asks for: the class, and which token is special

These are Hugging Face's names; OpenAI's `vocab.bpe` and `encoder.json`, with the same contents, are read as well, and
Hugging Face's `tokenizer.json`, which has everything in one.
"""

import json
from pathlib import Path

from gpt2spec.errors import ConfigError, nearest
from gpt2spec.files import storage_errors
from gpt2spec.tokenizer.bpe import TOKENIZERS, Tokenizer, tokenizer_named
from gpt2spec.tokenizer.vocabulary import END_OF_TEXT, VERSION_LINE, checked_merges, encoder_mapping

MERGES, VOCABULARY, TRANSFORMERS = "merges.txt", "vocab.json", "tokenizer_config.json"
TOKENIZER_FILES = (MERGES, VOCABULARY, TRANSFORMERS)
FOLDER = "tokenizer"
"""Where a folder that holds other things keeps its tokenizer."""

BOTH = "tokenizer.json"
_PAIRS = ((MERGES, VOCABULARY), ("vocab.bpe", "encoder.json"), (BOTH, VOCABULARY))
READABLE = frozenset(name for pair in _PAIRS for name in pair)
"""The files that a tokenizer may be read from."""


def write_tokenizer(folder: Path, tokenizer: Tokenizer, n_ctx: int | None = None) -> None:
    """Write the three files into an existing folder, for a caller that makes the folder appear as a whole.

    `n_ctx` is told `transformers`, which warns of longer texts.
    """
    config: dict[str, object] = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False}
    config |= {} if n_ctx is None else {"model_max_length": n_ctx}
    config |= dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    with storage_errors(folder):
        (folder / MERGES).write_bytes(tokenizer.merges)
        (folder / VOCABULARY).write_text(json.dumps(encoder_mapping(tokenizer.ranks)) + "\n", "ascii")
        (folder / TRANSFORMERS).write_text(json.dumps(config, indent=2) + "\n", encoding="ascii")


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in a folder; the ones that come with gpt2spec are recognised by their merges.

    Raises `ConfigError` for files that are missing, damaged, or do not belong together.
    """
    pairs = [(folder / merges, folder / vocabulary) for merges, vocabulary in _PAIRS if (folder / merges).is_file()]
    if not pairs:
        raise ConfigError(f"there is no tokenizer in {folder}: it has neither {MERGES} nor vocab.bpe nor {BOTH}")
    merges, vocabulary = pairs[0]
    lines = checked_merges(_merges_in_json(merges) if merges.name == BOTH else _read(merges), str(merges))
    contents = "".join(f"{line}\n" for line in (VERSION_LINE, *lines)).encode()
    ours = (tokenizer_named(name) for name in TOKENIZERS)
    tokenizer = next((each for each in ours if each.merges == contents), None) or Tokenizer(contents, name="bpe")
    if vocabulary.is_file() and _ids(vocabulary) != encoder_mapping(tokenizer.ranks):
        raise ConfigError(
            f"{vocabulary} does not belong to {merges}: ids are the 256 bytes in OpenAI's order, the merges in "
            f"theirs, and last {END_OF_TEXT}; take both files from one tokenizer"
        )
    return tokenizer


def find_tokenizer(name: str) -> Tokenizer:
    """The tokenizer meant by `name`: one of `TOKENIZERS`, or else that in the folder `name` or its `tokenizer`."""
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


def recorded_tokenizer(identifier: str, folder: Path) -> Tokenizer:
    """The tokenizer whose `id` a dataset or checkpoint has recorded: one of ours, or else that saved in `folder`.

    Raises `ConfigError` where it is neither.
    """
    for name in TOKENIZERS:
        if tokenizer_named(name).id == identifier:
            return tokenizer_named(name)
    if not any((folder / merges).is_file() for merges, _ in _PAIRS):
        raise ConfigError(
            f"the tokenizer {identifier!r} is none of {', '.join(TOKENIZERS)}, which come with gpt2spec, and "
            f"{folder} does not hold it"
        )
    tokenizer = read_tokenizer(folder)
    if tokenizer.id != identifier:
        raise ConfigError(f"the tokenizer in {folder} is {tokenizer.id}, but {identifier} was used: it was exchanged")
    return tokenizer


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from error


def _ids(path: Path) -> object:
    try:
        return json.loads(_read(path))
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {error}") from error


def _merges_in_json(path: Path) -> str:
    """The merges of a `tokenizer.json` as the lines of a `merges.txt`."""
    try:
        found = json.loads(_read(path))["model"]["merges"]
        lines = [each if isinstance(each, str) else " ".join(each) for each in found]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} has no merges: GPT-2's tokenizer is a byte-level BPE") from error
    return "\n".join([VERSION_LINE, *lines, ""])
