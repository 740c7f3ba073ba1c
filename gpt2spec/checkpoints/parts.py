"""Checkpoints that no process ever has whole: each writes, and later reads, what it holds.

The backend writes tensors, through its framework's own library; what surrounds them is the same as in
`gpt2spec.checkpoints.native`: a folder that is either whole or refused.
"""

import shutil
from pathlib import Path
from typing import Any

from gpt2spec.backend import Backend
from gpt2spec.checkpoints.native import (
    MOMENTS,
    PARTS,
    checkpoint_folder,
    files_in_parts,
    load_progress,
    verify_checkpoint,
    write_description,
)
from gpt2spec.checkpoints.stored import read_errors
from gpt2spec.checkpoints.sums import SUMS, sums_of
from gpt2spec.config import GPT2Config
from gpt2spec.errors import ConfigError
from gpt2spec.files import make_folder, publish_folder, storage_errors
from gpt2spec.parameters import weight_table
from gpt2spec.tokenizer import Tokenizer
from gpt2spec.tree import Tree

KINDS = ("params", *MOMENTS)
"""What there is of each weight, in the optimizer's state and in `parts`."""


def writes_parts(backend: Backend, chosen: str | None) -> bool:
    """Whether a run's checkpoints are in parts: as is `chosen`, by default where no process has the whole."""
    if chosen == "whole" or (chosen is None and not backend.sharded):
        return False
    if chosen == "parts" and not backend.has_parts():
        raise ConfigError(
            f"checkpoint_format 'parts' is for weights in parts, and backend {backend.name!r} as it is set up here has "
            "all of them: leave it out, or train with --parallel sharded"
        )
    return backend.has_parts()


def can_load_parts(backend: Backend, folder: Path) -> bool:
    """Whether a checkpoint is in parts, and of this backend's writing."""
    return load_progress(folder).get(PARTS) == backend.name and backend.has_parts()


def save_in_parts(
    run: Path, config: GPT2Config, backend: Backend, state: Tree, progress: dict[str, Any], tokenizer: Tokenizer | None
) -> None:
    """Write the checkpoint of `progress["step"]`; all processes call it together, and all fail if one does."""
    target = checkpoint_folder(run, progress["step"])
    temporary = target.with_name(f".{target.name}.{PARTS}.tmp")  # one name, which all processes know
    first = backend.rank == 0
    try:
        with storage_errors(target):
            with backend.together():
                if first:
                    _prepare(temporary, config, backend, progress, tokenizer)
            for kind in KINDS:
                backend.save_parts(state[kind], temporary / PARTS / kind)
            with backend.together():
                names = _files(temporary)[backend.rank :: backend.ranks]
                (temporary / f"{SUMS}.{backend.rank}").write_text(sums_of(temporary, names))
            with backend.together():
                if first:
                    _finish(temporary, target, backend.ranks)
    except BaseException:
        if first:
            shutil.rmtree(temporary, ignore_errors=True)
        raise


def load_from_parts(folder: Path, backend: Backend, config: GPT2Config) -> Tree:
    """The optimizer state in a checkpoint of this backend and of this model: each process reads what it is to hold.

    The processes share the files out among them to verify; where one finds damage, all fail.
    """
    with backend.together():
        verify_checkpoint(folder, files_in_parts(folder)[backend.rank :: backend.ranks])
    shapes = {weight.name: weight.shape for weight in weight_table(config)}
    with read_errors(folder):
        return {kind: backend.load_parts(folder / PARTS / kind, shapes) for kind in KINDS}


def _prepare(
    temporary: Path, config: GPT2Config, backend: Backend, progress: dict[str, Any], tokenizer: Tokenizer | None
) -> None:
    """The folder, and all in it but the parts."""
    make_folder(temporary.parent)
    shutil.rmtree(temporary, ignore_errors=True)
    for kind in KINDS:
        (temporary / PARTS / kind).mkdir(parents=True)
    write_description(temporary, config, backend.param_dtype, progress | {PARTS: backend.name}, tokenizer)


def _files(folder: Path) -> list[str]:
    """All that is to be hashed. Of files that PyTorch's processes write, each is then given its own."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(SUMS))
    return sorted((path.relative_to(folder).as_posix() for path in paths), key=lambda name: not name.startswith(PARTS))


def _finish(temporary: Path, target: Path, ranks: int) -> None:
    """Gather the hashes, and give the folder its name."""
    pieces = [temporary / f"{SUMS}.{rank}" for rank in range(ranks)]
    lines = [line for piece in pieces for line in piece.read_text().splitlines()]
    known = {line.partition("  ")[2] for line in lines}
    # A file system that shows new files late may have hidden one from the process whose turn it was.
    lines += sums_of(temporary, [name for name in _files(temporary) if name not in known]).splitlines()
    lines.sort(key=lambda line: line.partition("  ")[2])
    (temporary / SUMS).write_text("\n".join(lines) + "\n")
    for piece in pieces:
        piece.unlink()
    publish_folder(temporary, target, replace=True)
