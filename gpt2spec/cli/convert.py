"""`gpt2spec convert`: a checkpoint of any format into one of Hugging Face, nanoGPT or llm.c, or of ours, whole."""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2spec.cli.checkpoint_arguments import add_step_argument, opened

if TYPE_CHECKING:
    from gpt2spec.checkpoints.convert import Format
    from gpt2spec.checkpoints.reader import CheckpointReader

NAME = "convert"
HELP = "write a checkpoint in the format of Hugging Face, nanoGPT or llm.c, or one in parts as a whole"

SECONDS_BETWEEN_LINES = 10.0
BYTES_A_VALUE = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "source",
        type=Path,
        metavar="SRC",
        help="run directory or checkpoint; or a model of Hugging Face, OpenAI, nanoGPT or llm.c; or demo",
    )
    parser.add_argument("target", type=Path, metavar="DST", help="the folder (hf, gpt2spec) or file to make")
    parser.add_argument(
        "--to",
        required=True,
        metavar="FORMAT",
        help="hf (a folder), nanogpt (a .pt file), llmc (a .bin file), or gpt2spec (a folder, of one in parts)",
    )
    parser.add_argument("--dtype", default="float32", metavar="NAME", help="float32 (default), or bfloat16, rounded")
    add_step_argument(parser)
    parser.add_argument("--force", action="store_true", help="replace DST where it is such a checkpoint already")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read DST back and compare every weight with SRC; tell whether SRC is a released model",
    )
    parser.add_argument("--hashes", action="store_true", help="print the SHA-256 of every weight")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def run(args: argparse.Namespace) -> int:
    """Convert, and say what was written."""
    from gpt2spec.checkpoints.convert import convert, format_named, verify
    from gpt2spec.cli.info import hashes_text
    from gpt2spec.parameters import count_parameters

    form = format_named(args.to)
    reader = opened(args.source, args.step)
    total = count_parameters(reader.config)
    with Progress("writing", total, args.quiet) as progress:
        hashes = convert(reader, args.target, args.to, dtype=args.dtype, force=args.force, progress=progress.add)
    if args.verify:
        with Progress("verifying", total, args.quiet) as progress:
            verify(args.target, hashes, progress.add)
    print(summary(reader, args.target, form, args.dtype, args.verify))
    if args.hashes:
        print(f"\n{hashes_text(reader.config, hashes)}")
    return 0


def summary(reader: "CheckpointReader", target: Path, form: "Format", dtype: str, verified: bool) -> str:
    """What was done, as a table, and what one should know of it."""
    from gpt2spec.checkpoints.released import told_of_release
    from gpt2spec.cli.table import format_table
    from gpt2spec.parameters import count_parameters

    release = told_of_release(reader.path) if verified else None
    weights = f"{len(reader.entries):,} of {count_parameters(reader.config):,} values, {dtype}"
    rows = [
        ("from", f"{reader.path} ({reader.format})"),
        *([("release", release)] if release else []),
        ("to", f"{target} ({form.title})"),
        ("weights", weights + (", verified" if verified else "")),
        ("tokenizer", reader.tokenizer or "not recorded"),
    ]
    notes = dict.fromkeys((*reader.notes, *form.notes))  # each once
    return "\n".join([format_table(rows), *(f"Note: {note}." for note in notes)])


class Progress:
    """Counts the bytes of weights, on standard error: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, label: str, values: int, quiet: bool) -> None:
        """Begin to count now."""
        self.label, self.total, self.quiet, self.done = label, BYTES_A_VALUE * values, quiet, 0
        self.start = self.last_line = time.monotonic()
        self.bar: Any = None
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(desc=label, total=self.total, unit="B", unit_scale=True, dynamic_ncols=True, leave=False)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def add(self, values: int) -> None:
        """Note that so many more values are done."""
        self.done += BYTES_A_VALUE * values
        if self.bar is not None:
            self.bar.update(BYTES_A_VALUE * values)
        elif not self.quiet and time.monotonic() >= self.last_line + SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            print(self._line(), file=sys.stderr, flush=True)

    def _line(self) -> str:
        from tqdm import tqdm

        rate = self.done / max(time.monotonic() - self.start, 1e-9)
        eta = tqdm.format_interval((self.total - self.done) / rate)
        return f"{self.label}  {self.done / 1e6:,.0f}/{self.total / 1e6:,.0f} MB  {rate / 1e6:,.0f} MB/s  ETA {eta}"
