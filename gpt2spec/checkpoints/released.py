"""This module recognises the released weights of GPT-2 by the SHA-256 of their files.

Others have published hashes of 124M only. Sources: for the files on the Hugging Face Hub (openai-community/gpt2,
revision 607a30d783dfa663caf39e06633721c8d4cfcd7e), the hashes under which Git LFS keeps them, one of which is also in
the tests of github.com/huggingface/huggingface_hub; for OpenAI's file, two repositories that check their download
independently of each other.
"""

from pathlib import Path
from typing import NamedTuple

from gpt2spec.checkpoints.stored import read_errors
from gpt2spec.files import sha256_of_file


class Release(NamedTuple):
    """A file of weights: its name, its size in bytes, its SHA-256, and what it is, for people."""

    file: str
    size: int
    sha256: str
    title: str


RELEASES = (
    Release(
        "model.ckpt.data-00000-of-00001",
        497_759_232,
        "2060c885360cc0cf41d7a6dbc4d24b5127aae20260c8b5ae521b5a6578407118",
        "124M as OpenAI released it",
    ),
    Release(
        "model.safetensors",
        548_105_171,
        "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
        "124M as on the Hugging Face Hub, openai-community/gpt2",
    ),
    Release(
        "pytorch_model.bin",
        548_118_077,
        "7c5d3f4b8b76583b422fcb9189ad6c89d5d97a094541ce8932dce3ecabde1421",
        "124M as on the Hugging Face Hub, openai-community/gpt2",
    ),
)


def release_note(folder: Path) -> str | None:
    """A sentence that says whether a checkpoint folder has a released file, byte for byte.

    It is None where no file has the name and size of a released one; no other file is read.
    """
    for release in RELEASES:
        path = folder / release.file
        with read_errors(path):
            if not path.is_file() or path.stat().st_size != release.size:
                continue
            if sha256_of_file(path) == release.sha256:
                return f"{release.title}: {release.file} has the published SHA-256"
            return f"not {release.title}: {release.file} has its size, but not the published SHA-256"
    return None
