"""The options that say which checkpoint, shared by the commands that open one."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2spec.errors import CheckpointError

if TYPE_CHECKING:
    from gpt2spec.checkpoints.reader import CheckpointReader


def add_checkpoint_arguments(parser: Any, required: bool = False) -> None:
    """Declare `--checkpoint` and `--step`, to a parser or to a group of it."""
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=required,
        metavar="PATH",
        help="run directory or checkpoint; or a model of Hugging Face, OpenAI, nanoGPT or llm.c; or demo",
    )
    add_step_argument(parser)


def add_step_argument(parser: Any) -> None:
    """Declare `--step`."""
    parser.add_argument("--step", type=int, metavar="N", help="which checkpoint of a run (default: the last)")


def add_tokenizer_argument(parser: Any, whose: str = "of a checkpoint that does not say its tokenizer") -> None:
    """Declare `--tokenizer`, for commands that need text; the help says `whose` it is."""
    parser.add_argument(
        "--tokenizer",
        metavar="NAME|DIR",
        help=f"gpt2, bytes, or a folder with one: {whose}",
    )


def opened(path: Path, step: int | None) -> "CheckpointReader":
    """The checkpoint at `path`; where one of a run is damaged, the `CheckpointError` offers the one before."""
    from gpt2spec.checkpoints.opening import earlier_step, open_checkpoint

    try:
        return open_checkpoint(path, step)
    except CheckpointError as error:
        earlier = earlier_step(path, step)
        if earlier is None:
            raise
        raise CheckpointError(f"{error}; --step {earlier} takes the one before") from error
