"""`gpt2spec convert` writes a checkpoint in the format of Hugging Face, nanoGPT or llm.c, or in our own."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2spec.cli.checkpoint_arguments import add_step_argument, add_tokenizer_argument, opened

if TYPE_CHECKING:
    from gpt2spec.checkpoints.convert import Format
    from gpt2spec.checkpoints.reader import CheckpointReader

NAME = "convert"
HELP = "write a checkpoint in the format of Hugging Face, nanoGPT or llm.c, or a sharded one as a whole"

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
        help="hf (a folder), nanogpt (a .pt file), llmc (a .bin file), or gpt2spec (a folder, from a sharded one)",
    )
    parser.add_argument("--dtype", default="float32", metavar="NAME", help="float32 (default), or bfloat16, rounded")
    add_step_argument(parser)
    add_tokenizer_argument(parser)
    parser.add_argument("--force", action="store_true", help="replace DST where it is such a checkpoint already")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read DST back and compare every weight with SRC; tell whether SRC is a released model",
    )
    parser.add_argument("--hashes", action="store_true", help="print the SHA-256 of every weight")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def run(args: argparse.Namespace) -> int:
    """Convert, and print what was written."""
    from gpt2spec.byte_progress import ByteProgress
    from gpt2spec.checkpoints.convert import convert, format_named, verify
    from gpt2spec.cli.info import hashes_text
    from gpt2spec.parameters import count_parameters

    form = format_named(args.to)
    reader = opened(args.source, args.step)
    if args.tokenizer is not None:
        reader = named(reader, args.tokenizer, form)
    total = BYTES_A_VALUE * count_parameters(reader.config)
    with ByteProgress("writing", total, args.quiet) as progress:
        hashes = convert(
            reader, args.target, args.to, dtype=args.dtype, force=args.force,
            progress=lambda values: progress.add(BYTES_A_VALUE * values),
        )  # fmt: skip
    if args.verify:
        with ByteProgress("verifying", total, args.quiet) as progress:
            verify(args.target, hashes, lambda values: progress.add(BYTES_A_VALUE * values))
    print(summary(reader, args.target, form, args.dtype, args.verify))
    if args.hashes:
        print(f"\n{hashes_text(reader.config, hashes)}")
    return 0


def named(reader: "CheckpointReader", tokenizer: str, form: "Format") -> "CheckpointReader":
    """The checkpoint with the tokenizer that it does not record itself."""
    from gpt2spec.checkpoints.tokenizers import with_tokenizer
    from gpt2spec.errors import ConfigError

    if form.training:
        raise ConfigError("--tokenizer is for the formats of others: a run goes on with the tokenizer it began with")
    return with_tokenizer(reader, tokenizer)


def summary(reader: "CheckpointReader", target: Path, form: "Format", dtype: str, verified: bool) -> str:
    """A table of what was done, and notes on what a user should know about it."""
    from gpt2spec.checkpoints.convert import notes_on
    from gpt2spec.checkpoints.released import release_note
    from gpt2spec.cli.table import format_table
    from gpt2spec.parameters import count_parameters

    release = release_note(reader.path) if verified else None
    weights = f"{len(reader.entries):,} of {count_parameters(reader.config):,} values, {dtype}"
    rows = [
        ("from", f"{reader.path} ({reader.format})"),
        *([("release", release)] if release else []),
        ("to", f"{target} ({form.title})"),
        ("weights", weights + (", verified" if verified else "")),
        ("tokenizer", reader.tokenizer or "not recorded"),
    ]
    return "\n".join([format_table(rows), *(f"Note: {note}." for note in notes_on(reader, form))])
