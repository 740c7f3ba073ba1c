"""`gpt2spec tokenizer` learns a tokenizer from text."""

import argparse
import sys
from pathlib import Path

NAME = "tokenizer"
HELP = "learn a tokenizer from text"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    text = "learn a byte-level BPE and write it as files that gpt2spec and transformers load"
    train = actions.add_parser("train", help=text, description=text, allow_abbrev=False)
    train.add_argument(
        "corpus",
        nargs="*",
        type=Path,
        metavar="CORPUS",
        help="a text file, or a folder of .txt files; left out, the text of Python's own language reference",
    )
    train.add_argument(
        "--vocab-size", type=int, required=True, metavar="N", help="entries: 256 bytes, the merges, and <|endoftext|>"
    )
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to make")
    train.add_argument("--quiet", action="store_true", help="show no progress")


def run(args: argparse.Namespace) -> int:
    """Learn and write the tokenizer, and print what it is."""
    from gpt2spec.data.dataset import language_reference
    from gpt2spec.data.sources import find_sources, read_text
    from gpt2spec.errors import StorageError
    from gpt2spec.files import atomic_folder, make_folder
    from gpt2spec.tokenizer import train_tokenizer, write_tokenizer

    if args.out.exists() and not (args.out.is_dir() and not any(args.out.iterdir())):
        raise StorageError(f"{args.out} exists; name a new folder")
    sources = find_sources(args.corpus) if args.corpus else [language_reference()]
    progress = not args.quiet and sys.stdout.isatty()
    tokenizer = train_tokenizer(map(read_text, sources), args.vocab_size, progress=progress)
    make_folder(args.out.parent)
    with atomic_folder(args.out) as folder:
        write_tokenizer(folder, tokenizer)
    longest = max(tokenizer.ranks, key=len).decode("utf-8", errors="backslashreplace")
    print(f"{tokenizer.id}: {tokenizer.vocab_size:,} entries, the longest {longest!r}, in {args.out}")
    print(f"Use it: gpt2spec train --tokenizer {args.out}, or gpt2spec data prepare, or gpt2spec tokenize")
    return 0
