"""The tokenizer in a Hugging Face folder: `vocab.json` and `merges.txt`, or both in a `tokenizer.json`."""

import hashlib
import json
from pathlib import Path

from gpt2spec.checkpoints.stored import read_errors
from gpt2spec.errors import CheckpointError
from gpt2spec.tokenizer import TOKENIZERS, Tokenizer, tokenizer_named
from gpt2spec.tokenizer.vocabulary import END_OF_TEXT, encoder_mapping

VOCABULARY, MERGES, BOTH, SETTINGS = "vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"
VERSION = "#version: 0.2"


def tokenizer_in(folder: Path) -> str | None:
    """The `id` of the tokenizer whose files are in a folder; None where there are none.

    A tokenizer that does not come with gpt2spec gets an id that none of ours has.
    """
    lines = _merges(folder)
    if lines is None:
        return None
    merges = "\n".join([VERSION, *lines, ""]).encode()
    known = [tokenizer_named(name) for name in TOKENIZERS]
    other = f"{folder.resolve().name}-{hashlib.sha256(merges).hexdigest()[:16]}"
    return next((each.id for each in known if each.merges == merges), other)


def write_tokenizer(folder: Path, tokenizer: Tokenizer, n_ctx: int) -> None:
    """Write the files from which `transformers.AutoTokenizer` makes the same tokenizer."""
    settings = {
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": n_ctx,
        "add_prefix_space": False,
        **dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT),
    }
    (folder / MERGES).write_bytes(tokenizer.merges)
    vocabulary = encoder_mapping(tokenizer.ranks)
    for name, value in ((VOCABULARY, vocabulary), (SETTINGS, settings)):
        (folder / name).write_text(json.dumps(value, indent=None if name == VOCABULARY else 2) + "\n", "utf-8")


def _merges(folder: Path) -> list[str] | None:
    """The merges, `left right` each, from whichever file has them."""
    if (folder / MERGES).is_file():
        with read_errors(folder / MERGES):
            lines = (folder / MERGES).read_text("utf-8").split("\n")
        return [line for line in lines if line and not line.startswith("#version")]
    if not (folder / BOTH).is_file():
        return None
    with read_errors(folder / BOTH):
        found = json.loads((folder / BOTH).read_text("utf-8"))
    try:
        return [each if isinstance(each, str) else " ".join(each) for each in found["model"]["merges"]]
    except (KeyError, TypeError):
        raise CheckpointError(f"{folder / BOTH} has no merges: GPT-2's tokenizer is a byte-level BPE") from None
