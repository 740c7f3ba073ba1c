"""The options that choose a checkpoint, shared by the commands that open one."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2spec.errors import CheckpointError

if TYPE_CHECKING:
    from gpt2spec.checkpoints.reader import CheckpointReader


def add_checkpoint_arguments(parser: argparse._ActionsContainer, required: bool = False) -> None:
    """Declare `--checkpoint` and `--step` in a parser or in a group of its options."""
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=required,
        metavar="PATH",
        help="run directory or checkpoint; or a model of Hugging Face, OpenAI, nanoGPT or llm.c; or demo",
    )
    add_step_argument(parser)


def add_step_argument(parser: argparse._ActionsContainer) -> None:
    """Declare `--step`."""
    parser.add_argument("--step", type=int, metavar="N", help="which checkpoint of a run (default: the last)")


def add_tokenizer_argument(
    parser: argparse._ActionsContainer, purpose: str = "for a checkpoint that does not record its tokenizer"
) -> None:
    """Declare `--tokenizer`, for commands that read or write text; the help text ends with its `purpose`."""
    parser.add_argument(
        "--tokenizer",
        metavar="NAME|DIR",
        help=f"gpt2, bytes, or a folder with one, {purpose}",
    )


def opened(path: Path, step: int | None) -> "CheckpointReader":
    """Open the checkpoint at `path`. If one of a run is damaged, the `CheckpointError` names the one before."""
    from gpt2spec.checkpoints.opening import earlier_step, open_checkpoint

    try:
        return open_checkpoint(path, step)
    except CheckpointError as error:
        earlier = earlier_step(path, step)
        if earlier is None:
            raise
        raise CheckpointError(f"{error}; --step {earlier} takes the one before") from error
