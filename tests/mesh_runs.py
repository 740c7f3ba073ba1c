"""Runs of JAX in a process of its own, which may have several devices: `mesh_runs.py RUNS.json`.

RUNS.json lists [folder, settings, resume]; printed is where each device had what of a weight, hashes of the last
weights and moments where checkpoints are in parts, and what was refused.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from gpt2spec.checkpoints.stored import sha256_of_values
from gpt2spec.errors import GPT2SpecError
from gpt2spec.parameters import HostParams
from gpt2spec.training import trainer
from gpt2spec.training.loop import train
from gpt2spec.training.settings import RunSettings


def hash_of(params: HostParams) -> str:
    """One hash of all, in their order."""
    return hashlib.sha256("".join(f"{name} {sha256_of_values(x)} " for name, x in params.items()).encode()).hexdigest()


def main(path: Path) -> None:
    """Do them in order."""
    found: list[Any] = []
    run = trainer.Trainer.run

    def noting(self: trainer.Trainer) -> bool:
        leaf = self.state["m"]["blocks"]["mlp"]["c_fc"]["weight"]
        found.append([list(shard.data.shape) for shard in leaf.addressable_shards])
        finished = run(self)
        if self.in_parts:  # which nobody gathers but this test
            found.append([hash_of(self.backend.dump_params(self.state[kind])) for kind in ("params", "m", "v")])
        return finished

    trainer.Trainer.run = noting  # type: ignore[method-assign]
    for folder, values, resume in json.loads(path.read_text()):
        try:
            train(RunSettings(**values), Path(folder), resume=resume, quiet=True)
        except GPT2SpecError as error:
            found.append(f"{type(error).__name__}: {error}")
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
