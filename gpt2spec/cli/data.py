"""`gpt2spec data`: turn text into token shards, and show what a prepared folder holds."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2spec.data import Manifest

NAME = "data"
HELP = "prepare text for training, or show and check a prepared folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    text = "encode text files into a folder of token shards"
    prepare = actions.add_parser("prepare", help=text, description=text, allow_abbrev=False)
    prepare.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a text file, or a folder of .txt files")
    prepare.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to make")
    prepare.add_argument(
        "--val-fraction", type=float, metavar="F", help="share of the text, at its end, for validation (default: 0.1)"
    )
    prepare.add_argument("--shard-tokens", type=int, metavar="N", help="tokens in a shard file (default: 100 million)")
    prepare.add_argument(
        "--tokenizer", default="gpt2", metavar="NAME", help="gpt2 (default), or bytes: 257 ids, for the nano preset"
    )
    text = "show what a prepared folder holds, and check that its files are undamaged"
    info = actions.add_parser("info", help=text, description=text, allow_abbrev=False)
    info.add_argument("folder", type=Path, metavar="DIR", help="a folder made by `gpt2spec data prepare`")


def run(args: argparse.Namespace) -> int:
    """Prepare or show."""
    if args.action == "prepare":
        from gpt2spec.data import prepare
        from gpt2spec.tokenizer import tokenizer_named

        options = {"val_fraction": args.val_fraction, "shard_tokens": args.shard_tokens}
        given = {name: value for name, value in options.items() if value is not None}
        tokenizer = tokenizer_named(args.tokenizer)
        print(summary(prepare(args.paths, args.out, tokenizer=tokenizer, progress=True, **given), args.out))
        return 0
    from gpt2spec.data import open_prepared, read_manifest

    dataset = open_prepared(args.folder)
    print(summary(read_manifest(args.folder), args.folder))
    dataset.verify()
    print("\nall shards are undamaged")
    return 0


def summary(manifest: "Manifest", folder: Path) -> str:
    """What was prepared, as a table."""
    from gpt2spec.cli.table import format_table

    splits = [("train", manifest.train_tokens, manifest.train), ("validation", manifest.val_tokens, manifest.val)]
    total = manifest.train_tokens + manifest.val_tokens
    rows = [
        ("documents", f"{len(manifest.sources):,}"),
        ("bytes", f"{manifest.source_bytes:,}"),
        *((f"{name} tokens", f"{tokens:,} {in_shards(len(shards))}") for name, tokens, shards in splits),
        ("bytes a token", f"{manifest.source_bytes / total:.3f}"),
        ("unigram entropy", f"{manifest.unigram_entropy:.4f} nats"),
        ("tokenizer", manifest.tokenizer),
        ("folder", str(folder)),
    ]
    return format_table(rows)


def in_shards(count: int) -> str:
    """`count` shards in words."""
    return f"in {count:,} shard{'' if count == 1 else 's'}"
