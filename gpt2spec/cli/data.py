"""`gpt2spec data` turns text into token shards, and shows what a prepared folder holds."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2spec.data import Manifest

NAME = "data"
HELP = "prepare text for training, or show and check a prepared folder"

ESCAPES = {r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\\": "\\"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments. The defaults are those of `PrepareOptions`."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    text = "encode text into a folder of token shards; run it again to go on after it was stopped"
    prepare = actions.add_parser("prepare", help="encode text into token shards", description=text, allow_abbrev=False)
    prepare.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help=".txt, .jsonl, .csv or .parquet, the first three also with .gz, .xz or .zst after that; "
        "a folder or pattern of them; or - for standard input",
    )
    prepare.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to make")
    prepare.add_argument(
        "--tokenizer", default="gpt2", metavar="NAME|DIR", help="gpt2 (default), bytes: 257 ids, or a folder with one"
    )
    prepare.add_argument("--shard-tokens", type=int, metavar="N", help="tokens in a shard file (default: 100 million)")
    prepare.add_argument(
        "--encoder",
        metavar="NAME",
        help="who encodes: tiktoken (default), or fastokens, which is faster and gives the same tokens",
    )

    documents = prepare.add_argument_group("documents")
    documents.add_argument("--field", metavar="NAME", help="the field or column that holds the text (default: text)")
    documents.add_argument(
        "--format", metavar="NAME", help="txt, jsonl, csv or parquet, whatever the names of the files say"
    )
    documents.add_argument(
        "--split-on",
        metavar="TEXT",
        type=unescaped,
        help=r"what separates documents within plain text; \n, \t and \r are read as in Python "
        "(default: a file is a document)",
    )
    documents.add_argument("--drop-duplicates", action="store_true", default=None, help="leave out repeated documents")
    documents.add_argument(
        "--skip-bad", action="store_true", default=None, help="count rows that are no documents, and go on"
    )

    validation = prepare.add_argument_group("validation")
    validation.add_argument(
        "--val-fraction", type=float, metavar="F", help="share of documents for validation (default: 0.1)"
    )
    validation.add_argument("--seed", type=int, metavar="N", help="seed of the choice of these documents (default: 0)")
    validation.add_argument(
        "--validation",
        nargs="+",
        default=[],
        type=Path,
        metavar="PATH",
        help="take the documents of these files instead",
    )

    text = "show what a prepared folder holds, and check that its files are undamaged"
    info = actions.add_parser("info", help=text, description=text, allow_abbrev=False)
    info.add_argument("folder", type=Path, metavar="DIR", help="a folder made by `gpt2spec data prepare`")


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    if args.action == "prepare":
        return run_prepare(args)
    from gpt2spec.byte_progress import ByteProgress
    from gpt2spec.data import open_prepared, read_manifest

    dataset = open_prepared(args.folder)
    print(summary(read_manifest(args.folder), args.folder), flush=True)
    with ByteProgress("verifying", sum(each.size() for each in dataset.checksums)) as progress:
        dataset.verify(progress.add)
    print("\nall shards are undamaged")
    return 0


def run_prepare(args: argparse.Namespace) -> int:
    """Prepare the data and print a summary."""
    from gpt2spec.data import PrepareOptions, prepare
    from gpt2spec.errors import ConfigError
    from gpt2spec.tokenizer import find_tokenizer

    if args.validation and (args.val_fraction is not None or args.seed is not None):
        raise ConfigError(
            "--validation names the documents; --val-fraction and --seed choose them: give one or the other"
        )
    names = [field.name for field in dataclasses.fields(PrepareOptions)]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    manifest = prepare(
        args.paths,
        args.out,
        PrepareOptions(**given),
        tokenizer=find_tokenizer(args.tokenizer),
        validation=args.validation,
        progress=True,
        **({} if args.encoder is None else {"encoder": args.encoder}),
    )
    print(summary(manifest, args.out))
    return 0


def unescaped(text: str) -> str:
    r"""`text` with `\n`, `\t`, `\r` and `\\` replaced by the characters that they stand for."""
    import re

    return re.sub(r"\\[ntr\\]", lambda match: ESCAPES[match[0]], text)


def summary(manifest: "Manifest", folder: Path) -> str:
    """A table of what was prepared."""
    from gpt2spec.cli.table import format_table

    splits = [("train", manifest.train_tokens, manifest.train), ("validation", manifest.val_tokens, manifest.val)]
    total = manifest.train_tokens + manifest.val_tokens
    documents = manifest.documents
    left_out = {
        "blank documents": documents.blank,
        "duplicates": documents.duplicates,
        "bad rows": documents.bad,
    }
    rows = [
        ("sources", f"{len(manifest.sources):,}, of {manifest.source_bytes:,} bytes"),
        ("documents", f"{documents.train + documents.val:,}, of {manifest.text_bytes:,} bytes"),
        *((f"{name} left out", f"{count:,}") for name, count in left_out.items() if count),
        ("validation", chosen(manifest)),
        *((f"{name} tokens", f"{tokens:,} {in_shards(len(shards))}") for name, tokens, shards in splits),
        ("bytes a token", f"{manifest.text_bytes / total:.3f}"),
        ("unigram entropy", f"{manifest.unigram_entropy:.4f} nats"),
        ("tokenizer", manifest.tokenizer),
        ("folder", str(folder)),
    ]
    return format_table(rows)


def chosen(manifest: "Manifest") -> str:
    """How the validation split was chosen, in words."""
    match manifest.validation:
        case "documents":
            return f"{manifest.documents.val:,} documents, drawn with seed {manifest.seed}"
        case "position":
            return f"the last {manifest.val_fraction:.1%} of the text"
        case "given":
            return f"{manifest.documents.val:,} documents, as given"
        case _:
            return "none"


def in_shards(count: int) -> str:
    """`count` shards in words."""
    return f"in {count:,} shard{'' if count == 1 else 's'}"
