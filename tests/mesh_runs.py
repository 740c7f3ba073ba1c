"""Runs of JAX in a process of its own, which may have several devices: `mesh_runs.py RUNS.json`.

RUNS.json lists [folder, settings, resume]. The output says which part of a weight each device had, hashes of the last
weights and moments if checkpoints are sharded, and what was refused.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from gpt2spec.checkpoints.stored import sha256_of_values
from gpt2spec.errors import GPT2SpecError
from gpt2spec.parameters import HostParams
from gpt2spec.training import loop
from gpt2spec.training.loop import Callbacks, train
from gpt2spec.training.run import Run
from gpt2spec.training.settings import RunSettings


def hash_of(params: HostParams) -> str:
    """A single hash of all values in their order."""
    return hashlib.sha256("".join(f"{name} {sha256_of_values(x)} " for name, x in params.items()).encode()).hexdigest()


def main(path: Path) -> None:
    """Do the runs in order."""
    found: list[Any] = []
    go_on = loop.go_on

    def noting(run: Run, updates: Any, callbacks: Callbacks, *others: Any) -> None:
        leaf = run.state["m"]["blocks"]["mlp"]["c_fc"]["weight"]
        found.append([list(shard.data.shape) for shard in leaf.addressable_shards])
        go_on(run, updates, callbacks, *others)
        if callbacks.checkpoints.sharded:  # which nobody gathers but this test
            found.append([hash_of(run.backend.dump_params(run.state[kind])) for kind in ("params", "m", "v")])

    loop.go_on = noting
    for folder, values, resume in json.loads(path.read_text()):
        try:
            train(RunSettings(**values), Path(folder), resume=resume, quiet=True)
        except GPT2SpecError as error:
            found.append(f"{type(error).__name__}: {error}")
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
