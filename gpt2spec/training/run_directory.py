"""The files of a run directory.

config.toml      the run's settings, complete
data.json        what it was trained on: name, fingerprint, tokens, unigram entropy
metrics.jsonl    one object a step: step, loss, lr, grad_norm, tokens_per_second; where measured, val_loss, peak_memory
                 (bytes) and mfu; "skipped" for an update that was not made, where a figure may be null
tasks.jsonl      step and scores of a task, as in the JSON of `gpt2spec eval`, if there were any
samples.jsonl    step, prompt and text of the samples during training, if there were any
tensorboard/     the metrics again, if that was asked for
profile/         the trace of some updates, likewise
.lock            empty; locked by the process that trains here
checkpoints/     see `gpt2spec.checkpoints.native`
"""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpt2spec.errors import CheckpointError
from gpt2spec.files import atomic_write, make_folder, remove_leftovers, storage_errors
from gpt2spec.locks import held
from gpt2spec.training.settings import RunSettings, read_toml, settings_from, write_toml

CONFIG, DATA, METRICS, SAMPLES = "config.toml", "data.json", "metrics.jsonl", "samples.jsonl"
TASKS, LOCK = "tasks.jsonl", ".lock"


def create_run(path: Path, settings: RunSettings, data: dict[str, Any]) -> None:
    """Make a run in an existing folder, which holds none."""
    write_json(path / DATA, data)
    write_toml(path / CONFIG, settings)  # last: a folder without it holds no run


def open_run(path: Path) -> tuple[RunSettings, dict[str, Any]]:
    """Settings and data description of an existing run."""
    check_holds_run(path, True)
    try:
        data = json.loads((path / DATA).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path / DATA} cannot be read: {error}") from error
    if not isinstance(data, dict) or not {"name", "fingerprint", "unigram_entropy"} <= data.keys():
        raise CheckpointError(f"{path / DATA} is damaged: it lacks name, fingerprint or unigram_entropy")
    return settings_from(read_toml(path / CONFIG), str(path / CONFIG)), data


@contextlib.contextmanager
def locked_run(path: Path, new: bool) -> Iterator[None]:
    """Lock a run, or the place of a `new` one, for this process alone, where the file system has locks.

    Whatever a killed process left unfinished is removed.
    """
    check_holds_run(path, not new)
    if new:
        make_folder(path)
    with storage_errors(path / LOCK), (path / LOCK).open("ab"):  # a file, as NFS locks no folders
        pass
    with contextlib.ExitStack() as stack:
        try:
            alone = stack.enter_context(held(path / LOCK, os.O_RDWR))
        except BlockingIOError:
            raise CheckpointError(f"another process is training in {path}") from None
        check_holds_run(path, not new)  # another one may have made it meanwhile
        if alone:
            remove_leftovers(path)
            remove_leftovers(path / "checkpoints")
        yield


def check_holds_run(path: Path, expected: bool) -> None:
    """Raise `CheckpointError` unless a folder holds a run, or none, as expected."""
    if expected and not (path / CONFIG).is_file():
        raise CheckpointError(f"there is no run in {path}: it has no {CONFIG}")
    if not expected and ((path / CONFIG).exists() or (path / METRICS).exists()):
        raise CheckpointError(f"{path} already holds a run: continue it with --resume, or choose another --out")


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document."""
    with atomic_write(path) as file:
        file.write(json.dumps(value, indent=2).encode() + b"\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics; a last line that was cut off by a crash is left out."""
    return _records(path / METRICS, "step", "loss")


def metrics_until(path: Path, step: int) -> list[dict[str, Any]]:
    """The lines of the steps 1 to `step`. What follows is of steps that will be done again, and may be anything."""
    lines = _records(path / METRICS, "step", "loss", first=step) if (path / METRICS).exists() else []
    if [line["step"] for line in lines] != list(range(1, step + 1)):
        raise CheckpointError(f"{path / METRICS} does not hold the steps 1 to {step} that the checkpoint has seen")
    return lines


def read_scores(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's scores in tasks, without a torn last line; none where there is no file of them."""
    return _records(path / TASKS, "step", "task", "scores") if (path / TASKS).exists() else []


def forget_after(path: Path, step: int) -> None:
    """Leave out scores and samples after `step`, whose steps will be done again, and what a crash left of a line."""
    for file in (path / TASKS, path / SAMPLES):
        if file.exists():
            kept = [record for record in _records(file, "step") if record["step"] <= step]
            with atomic_write(file) as new:
                new.writelines(_line(each) for each in kept)


def add_record(path: Path, record: dict[str, Any]) -> None:
    """Append one task's scores, or a sample, to the file of them; it is on the disk when this returns."""
    with storage_errors(path), path.open("ab") as file:
        file.write(_line(record))
        file.flush()
        os.fsync(file.fileno())


def _records(path: Path, *names: str, first: int | None = None) -> list[dict[str, Any]]:
    """Read the objects in the lines of a file, or in the `first` of them; all have the `names`."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)[:first]
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    try:
        records = [json.loads(line) for line in lines]
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict) or not set(names) <= record.keys():
            raise CheckpointError(f"{path} is damaged: line {number} has no {' or '.join(names)}")
    return records


class MetricsLog:
    """The growing `metrics.jsonl` of a run."""

    def __init__(self, run: Path, lines: Sequence[dict[str, Any]]) -> None:
        """Continue after these lines; others belong to steps that will be done again."""
        self.path = run / METRICS
        with atomic_write(self.path) as file:
            file.writelines(_line(each) for each in lines)
        with storage_errors(self.path):
            self._file = self.path.open("ab")

    def write(self, record: dict[str, Any]) -> None:
        """Append one step."""
        with storage_errors(self.path):
            self._file.write(_line(record))
            self._file.flush()

    def sync(self) -> None:
        """Sync the file to the disk, before a checkpoint that relies on it."""
        with storage_errors(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file. Each line was flushed, so a failure has been reported already."""
        with contextlib.suppress(OSError):
            self._file.close()


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, allow_nan=False).encode() + b"\n"
