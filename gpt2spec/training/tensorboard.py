"""The metrics of a run as TensorBoard's event files. Needs the `tensorboard` extra."""

import re
from pathlib import Path
from typing import Any

from gpt2spec.errors import ConfigError

FOLDER = "tensorboard"


class TensorBoardLog:
    """The growing event files of a run."""

    def __init__(self, run: Path, step: int) -> None:
        """Continue after `step`; what was written of later steps is no longer shown."""
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ConfigError('--tensorboard needs tensorboardX: pip install "gpt2spec[tensorboard]"') from error
        suffix = f".{step}"  # files are named by the second: a resumed run must not write over what it goes on from
        self._writer = SummaryWriter(str(run / FOLDER), purge_step=step + 1, filename_suffix=suffix)

    def write(self, record: dict[str, Any]) -> None:
        """Add the numbers of one step."""
        for name, value in record.items():
            if name != "step" and value is not None:
                tag = re.sub(r"[^\w./-]+", "_", name)  # names of scores have spaces, which tags may not
                self._writer.add_scalar(tag, float(value), record["step"])

    def close(self) -> None:
        """Write what is held back."""
        self._writer.close()
