"""The tokenizer in a Hugging Face folder: `vocab.json` and `merges.txt`, or both in a `tokenizer.json`."""

import hashlib
import json
from pathlib import Path

from gpt2spec.checkpoints.stored import read_errors
from gpt2spec.errors import CheckpointError
from gpt2spec.tokenizer import TOKENIZERS, tokenizer_named
from gpt2spec.tokenizer.saved import BOTH, MERGES
from gpt2spec.tokenizer.vocabulary import VERSION_LINE


def tokenizer_in(folder: Path) -> str | None:
    """The `id` of the tokenizer whose files are in a folder; None where there are none.

    Any list of merges has an id; whether it is a tokenizer of GPT-2's kind is found out when it is used.
    """
    lines = _merges(folder)
    if lines is None:
        return None
    merges = "\n".join([VERSION_LINE, *lines, ""]).encode()
    known = [tokenizer_named(name) for name in TOKENIZERS]
    other = f"bpe-{hashlib.sha256(merges).hexdigest()[:16]}"
    return next((each.id for each in known if each.merges == merges), other)


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
