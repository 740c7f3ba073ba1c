"""The checkpoints of a run, written from a copy of the weights and moments while the next steps run."""

from collections.abc import Callable
from typing import Any

from gpt2spec.checkpoints.native import TrainingState, save_checkpoint
from gpt2spec.checkpoints.sharded import save_sharded
from gpt2spec.training.background import Background
from gpt2spec.training.divergence import check_finite
from gpt2spec.training.retention import Retention, make_room
from gpt2spec.training.run import Run
from gpt2spec.tree import tree_leaves


class Checkpoints:
    """The checkpoints of a run: a `Callback`.

    Attributes:
        sharded: whether each process writes what it holds.
        saved: the step of the last one.
        background: where it is written.
    """

    def __init__(self, run: Run, every: int, retention: Retention, sharded: bool, sync: Callable[[], None]) -> None:
        """Save `run` every so many steps.

        Args:
            run: whose weights and moments they hold.
            every: steps between checkpoints.
            retention: which of them are kept; where that is the best, it is saved at the step that has it.
            sharded: whether each process writes what it holds, instead of one file of everything.
            sync: brings the metrics to the disk, which a checkpoint relies on.
        """
        self._run, self._every, self._retention, self.sharded, self._sync = run, every, retention, sharded, sync
        self.saved, self.background = run.step, Background()

    def due(self, step: int) -> bool:
        """A checkpoint is due every so many steps, after the last, and at the lowest loss if that is kept."""
        if step % self._every == 0 or step == self._run.settings.steps:
            return True
        history = self._run.history
        return self._retention.best and step in history.val_losses and history.best() == step

    def run(self) -> None:
        """Copy weights and moments to the host, and begin to write the checkpoint; the one before is written then."""
        self.background.wait()
        self._sync()
        run, backend = self._run, self._run.backend
        self.saved = run.step
        progress = {
            "step": run.step,
            "data_position": run.step * run.settings.windows_per_step(),
            "data_fingerprint": run.dataset.fingerprint,
            "tokenizer": run.dataset.tokenizer_id,
        }
        if self.sharded:
            self._save_sharded(progress)
        elif backend.processes.first or (backend.sharding is not None and backend.sharding.across_processes):
            self._save_whole(progress)

    def _save_whole(self, progress: dict[str, Any]) -> None:
        """Save from the first process, to which the others only give what they hold."""
        run = self._run
        host = {name: run.backend.dump_params(run.state[name]) for name in ("params", "m", "v")}
        if not run.backend.processes.first:
            return
        check_finite(run.out, run.step, host["params"])
        training, best = TrainingState(host["m"], host["v"], progress), run.history.best()

        def write() -> None:
            save_checkpoint(run.out, run.config, host["params"], training, run.tokenizer)
            make_room(run.out, self._retention, best)

        self.background.start(write)

    def _save_sharded(self, progress: dict[str, Any]) -> None:
        """Save the shard of each process, in the background if the backend can do that during its steps."""
        run, backend, best = self._run, self._run.backend, self._run.history.best()
        norm = backend.jit(backend.ops.global_norm)(tree_leaves(run.state["params"]))
        check_finite(run.out, run.step, {"a weight": backend.to_numpy(norm)})
        assert backend.sharding is not None  # `sharded` asked for it
        snapshot = backend.sharding.snapshot(run.state)
        sharding, state = snapshot or (backend.sharding, run.state)

        def write() -> None:
            save_sharded(run.out, run.config, backend, sharding, state, progress, run.tokenizer)
            if sharding.processes.first:
                make_room(run.out, self._retention, best)

        if snapshot is None:
            write()
        else:
            self.background.start(write)
