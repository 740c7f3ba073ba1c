"""No process ever has a sharded checkpoint whole: each writes, and later reads, the shards that it holds.

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
    NativeCheckpoint,
    checkpoint_folder,
    write_description,
)
from gpt2spec.checkpoints.stored import read_errors
from gpt2spec.checkpoints.sums import SUMS, sums_of
from gpt2spec.config import GPT2Config
from gpt2spec.errors import ConfigError
from gpt2spec.files import make_folder, publish_folder, storage_errors
from gpt2spec.parameters import weight_table
from gpt2spec.sharding import Sharding
from gpt2spec.tokenizer import Tokenizer
from gpt2spec.tree import Tree

KINDS = ("params", *MOMENTS)
"""The kinds of values that each weight has, in the optimizer's state and in the folder `parts`."""


def sharding_of(backend: Backend) -> Sharding | None:
    """The backend's sharding, ready to write and read checkpoints; `BackendError` where only a package is missing."""
    if backend.sharding is not None:
        backend.sharding.check_available()
    return backend.sharding


def writes_sharded(backend: Backend, chosen: str | None) -> bool:
    """Whether a run's checkpoints are sharded: as `chosen`, and by default where no process has all of a weight."""
    by_default = backend.sharding is not None and backend.sharding.across_processes
    if chosen == "whole" or (chosen is None and not by_default):
        return False
    if sharding_of(backend) is None:
        raise ConfigError(
            f"checkpoint_format 'parts' is for weights in parts, and backend {backend.name!r} as it is set up here has "
            "all of them: leave it out, or train with --parallel sharded"
        )
    return True


def loads_sharded(backend: Backend, checkpoint: NativeCheckpoint) -> bool:
    """Whether a checkpoint is sharded, and one that this backend has written and can read so."""
    return checkpoint.sharded_by == backend.name and sharding_of(backend) is not None


def save_sharded(
    run: Path,
    config: GPT2Config,
    backend: Backend,
    sharding: Sharding,
    state: Tree,
    progress: dict[str, Any],
    tokenizer: Tokenizer | None,
) -> None:
    """Write the checkpoint of `progress["step"]`. Every process must call this, and all fail if one does.

    `sharding` is the backend's, or that of a snapshot.
    """
    target = checkpoint_folder(run, progress["step"])
    temporary = target.with_name(f".{target.name}.{PARTS}.tmp")  # one name, which all processes know
    processes = sharding.processes
    try:
        with storage_errors(target):
            with processes.all_or_none():
                if processes.first:
                    _prepare(temporary, config, backend, progress, tokenizer)
            for kind in KINDS:
                sharding.save(state[kind], temporary / PARTS / kind)
            with processes.all_or_none():
                names = _files(temporary)[processes.rank :: processes.ranks]
                (temporary / f"{SUMS}.{processes.rank}").write_text(sums_of(temporary, names))
            with processes.all_or_none():
                if processes.first:
                    _finish(temporary, target, processes.ranks)
    except BaseException:
        if processes.first:
            shutil.rmtree(temporary, ignore_errors=True)
        raise


def load_sharded(checkpoint: NativeCheckpoint, sharding: Sharding) -> Tree:
    """The optimizer state in a sharded checkpoint: each process reads the shards that it is to hold.

    The processes share the files out among them to verify; where one finds damage, all fail.
    """
    processes, folder = sharding.processes, checkpoint.folder
    with processes.all_or_none():
        checkpoint.verify(checkpoint.shards()[processes.rank :: processes.ranks])
    shapes = {weight.name: weight.shape for weight in weight_table(checkpoint.config)}
    with read_errors(folder):
        return {kind: sharding.load(folder / PARTS / kind, shapes) for kind in KINDS}


def _prepare(
    temporary: Path, config: GPT2Config, backend: Backend, progress: dict[str, Any], tokenizer: Tokenizer | None
) -> None:
    """Make the folder, and everything in it but the shards."""
    make_folder(temporary.parent)
    shutil.rmtree(temporary, ignore_errors=True)
    for kind in KINDS:
        (temporary / PARTS / kind).mkdir(parents=True)
    write_description(temporary, config, backend.param_dtype, progress | {PARTS: backend.name}, tokenizer)


def _files(folder: Path) -> list[str]:
    """The files to be hashed, in an order that gives each of PyTorch's processes those that it wrote."""
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
