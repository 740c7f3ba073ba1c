"""This module writes the metrics of a run as TensorBoard's event files. It needs the `tensorboard` extra."""

import contextlib
import re
import socket
import struct
import time
from pathlib import Path
from typing import Any

from gpt2spec.errors import ConfigError, StorageError
from gpt2spec.files import make_folder, storage_errors

FOLDER = "tensorboard"


class TensorBoardLog:
    """The growing event files of a run.

    They are TFRecords: a length, its checksum, an event, its checksum. tensorboardX's own writer has a thread and a
    queue for them, and waits forever once a full disk has ended the thread.
    """

    def __init__(self, run: Path, step: int) -> None:
        """Continue after `step`. Events of later steps are hidden."""
        try:
            from tensorboardX.proto.event_pb2 import Event, SessionLog
            from tensorboardX.proto.summary_pb2 import Summary
            from tensorboardX.record_writer import masked_crc32c
        except ImportError as error:
            raise ConfigError('--tensorboard needs tensorboardX: pip install "gpt2spec[tensorboard]"') from error
        self._event, self._summary, self._checksum = Event, Summary, masked_crc32c
        # Files are named by the second: a resumed run must not write over what it goes on from.
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{step}"
        self._path = make_folder(run / FOLDER) / name
        with storage_errors(self._path):
            self._file = self._path.open("ab", buffering=0)
        try:
            self._add(file_version="brain.Event:2")
            self._add(step=step + 1, session_log=SessionLog(status=SessionLog.START))
        except StorageError:
            self.close()
            raise

    def write(self, record: dict[str, Any]) -> None:
        """Add the numbers of one step."""
        values = [
            # Names of scores have spaces, which tags may not.
            self._summary.Value(tag=re.sub(r"[^\w./-]+", "_", name), simple_value=float(value))
            for name, value in record.items()
            if name != "step" and value is not None
        ]
        self._add(step=record["step"], summary=self._summary(value=values))

    def close(self) -> None:
        """Close the file. Nothing is held back, so a failure has been reported already."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _add(self, **fields: Any) -> None:
        data = self._event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(data))
        with storage_errors(self._path):
            self._file.write(length + self._sum(length) + data + self._sum(data))

    def _sum(self, data: bytes) -> bytes:
        return struct.pack("<I", self._checksum(data))
