"""This module opens a checkpoint of any format, which it recognises by the contents."""

from pathlib import Path

from gpt2spec.checkpoints.huggingface_folder import open_folder, weights_file
from gpt2spec.checkpoints.llmc import is_llmc, open_llmc
from gpt2spec.checkpoints.nanogpt import open_nanogpt
from gpt2spec.checkpoints.native import checkpoint_folder, checkpoint_steps, chosen_step, is_native, open_native
from gpt2spec.checkpoints.openai import HPARAMS, open_openai
from gpt2spec.checkpoints.reader import CheckpointReader
from gpt2spec.checkpoints.stored import read_errors
from gpt2spec.checkpoints.torch_file import ZIP
from gpt2spec.config import GPT2Config
from gpt2spec.errors import CheckpointError
from gpt2spec.parameters import HostParams

FORMATS = (
    "a run directory or checkpoint of gpt2spec, a Hugging Face folder, OpenAI's folder, "
    "a .pt file of nanoGPT or a .bin file of llm.c"
)
DEMO = Path(__file__).parent.parent / "demo"
"""A small model that comes with this package: docs/runs.md says how it was made."""
_PICKLE = b"\x80"


def load_checkpoint(path: Path | str, step: int | None = None) -> tuple[GPT2Config, HostParams]:
    """Configuration and weights of a checkpoint of any format.

    Args:
        path: a run directory or checkpoint folder of ours; a Hugging Face or OpenAI folder; a file of nanoGPT or
            llm.c. Which it is, is seen from its contents. "demo", where there is no such file, is the small model that
            comes with this package.
        step: which checkpoint of a run directory; the last by default.

    Returns:
        The weights with our names and shapes: float32, or float64 where the file has that.

    Raises:
        CheckpointError: for what is missing, damaged or no GPT-2.
        BackendError: for a file of PyTorch's where PyTorch is not installed.
    """
    reader = open_checkpoint(path, step)
    return reader.config, reader.params()


def open_checkpoint(path: Path | str, step: int | None = None) -> CheckpointReader:
    """The checkpoint at `path`, checked as far as it can be without reading the weights; see `load_checkpoint`."""
    path = Path(path)
    try:
        return _open(DEMO if path == Path("demo") and not path.exists() else path, step)
    except OSError as error:
        raise CheckpointError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error


def is_checkpoint_folder(path: Path) -> bool:
    """Whether a folder is a checkpoint itself, of whatever format, rather than a run directory."""
    return is_native(path) or weights_file(path) is not None or (path / HPARAMS).is_file()


def earlier_step(run: Path, step: int | None = None) -> int | None:
    """The last step of a run directory before `step`, or before its last one; None where there is none."""
    steps = checkpoint_steps(run)
    before = [each for each in steps if each < (steps[-1] if step is None else step)]
    return before[-1] if before else None


def _open(path: Path, step: int | None) -> CheckpointReader:
    if path.is_dir() and not is_checkpoint_folder(path):
        if not checkpoint_steps(path):
            if (path / "config.toml").is_file():
                raise CheckpointError(f"{path} holds no checkpoint yet: the run has not come to its first one")
            raise CheckpointError(f"{path} holds no checkpoint that can be read: {FORMATS} can be")
        return open_native(checkpoint_folder(path, chosen_step(path, step))).reader()
    if step is not None:
        raise CheckpointError(f"{path} is one checkpoint, not a run directory: it has no step {step} to choose")
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise CheckpointError(f"there is no run directory or checkpoint {path}")
    return _open_file(path)


def _open_folder(folder: Path) -> CheckpointReader:
    if is_native(folder):
        return open_native(folder).reader()
    if weights_file(folder) is not None:
        return open_folder(folder)
    return open_openai(folder)


def _open_file(path: Path) -> CheckpointReader:
    with read_errors(path), path.open("rb") as file:
        head = file.read(8)
    if is_llmc(head):
        return open_llmc(path)
    if weights_file(path.parent) == path:
        return _open_folder(path.parent)
    if head.startswith((ZIP, _PICKLE)):
        return open_nanogpt(path)
    raise CheckpointError(f"{path} is no checkpoint that can be read: {FORMATS} can be")
