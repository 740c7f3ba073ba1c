"""`gpt2spec tokenize`: see how GPT-2 reads a text."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2spec.tokenizer import Tokenizer

NAME = "tokenize"
HELP = "show the tokens of a text, or the text of some token ids"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("text", nargs="?", help="the text (default: standard input)")
    what.add_argument("--file", type=Path, metavar="FILE", help="a file with the text")
    what.add_argument("--decode", type=int, nargs="+", metavar="ID", help="show the text of these token ids instead")
    parser.add_argument(
        "--special", action="store_true", help="read <|endoftext|> in the text as the special token, not as text"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print JSON")
    how.add_argument("--count", action="store_true", help="print only the number of tokens")


def run(args: argparse.Namespace) -> int:
    """Print tokens or text."""
    import json

    from gpt2spec.tokenizer import gpt2_tokenizer

    tokenizer = gpt2_tokenizer()
    if args.decode is not None:
        text = tokenizer.decode(args.decode)
        ids = args.decode
    else:
        text = "".join(read(args))
        ids = tokenizer.encode(text, special=args.special)
    if args.count:
        print(len(ids))
    elif args.json:
        print(json.dumps(as_json(tokenizer, ids, text), ensure_ascii=False))
    elif args.decode is not None:
        print(text)
    else:
        print(listing(tokenizer, ids, text))
    return 0


def read(args: argparse.Namespace) -> Iterator[str]:
    """The text that was asked for, in pieces."""
    from gpt2spec.data.sources import Source, read_text

    if args.text is not None:
        yield args.text
    elif args.file is not None:
        yield from read_text(Source(args.file.name, str(args.file), lambda: args.file.open("rb")))
    else:
        yield from read_text(Source("stdin", "standard input", lambda: sys.stdin.buffer))


def as_json(tokenizer: "Tokenizer", ids: Sequence[int], text: str) -> dict[str, Any]:
    """Text, ids, and each token's bytes in hexadecimal: a token need not be whole characters."""
    return {
        "tokenizer": tokenizer.id,
        "text": text,
        "ids": list(ids),
        "bytes": [data.hex() for data in tokenizer.decode_each(ids)],
    }


def listing(tokenizer: "Tokenizer", ids: Sequence[int], text: str) -> str:
    """A table of the tokens with the offsets of their bytes, and a line of totals."""
    from gpt2spec.cli.table import format_table

    rows: list[tuple[str, ...]] = [("ID", "BYTE", "TOKEN")]
    offset = 0
    for token, data in zip(ids, tokenizer.decode_each(ids), strict=True):
        rows.append((str(token), str(offset), readable(data)))
        offset += len(data)
    totals = f"{amount(len(ids), 'token')}, {amount(len(text), 'character')}, {amount(offset, 'byte')}"
    return f"{format_table(rows, right=(0, 1))}\n\n{totals}" if ids else totals


def readable(data: bytes) -> str:
    r"""A token as a quoted string, or as b'\x..' where it begins or ends within a character."""
    try:
        return repr(data.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(data)


def amount(count: int, noun: str) -> str:
    """`count` of something in words."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
