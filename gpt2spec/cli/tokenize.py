"""`gpt2spec tokenize` shows how GPT-2 reads a text."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2spec.cli.checkpoint_arguments import add_checkpoint_arguments, add_tokenizer_argument, opened

if TYPE_CHECKING:
    from gpt2spec.tokenizer import Tokenizer

NAME = "tokenize"
HELP = "show or count the tokens of a text, or show the text of some token ids"


VISIBLE = {code: chr(0x2400 + code) for code in range(32)} | {ord(" "): "·", ord("\n"): "↵"}
"""The symbols with which `--line` shows control characters, spaces and line ends."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("text", nargs="?", help="the text (default: standard input)")
    what.add_argument(
        "--file",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="a file with the text; the tokens of several, or of a folder of .txt files, are counted",
    )
    what.add_argument("--decode", type=int, nargs="+", metavar="ID", help="show the text of these token ids instead")
    whose = parser.add_argument_group("whose tokens", "GPT-2's, unless one of these is given.")
    add_tokenizer_argument(whose, "by itself, or for a checkpoint that does not record its tokenizer")
    add_checkpoint_arguments(whose)
    parser.add_argument(
        "--special", action="store_true", help="read <|endoftext|> in the text as the special token, not as text"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print JSON")
    how.add_argument("--count", action="store_true", help="print only the number of tokens; files may have any size")
    how.add_argument("--line", action="store_true", help="print the text with | between tokens and a · for a space")


def run(args: argparse.Namespace) -> int:
    """Print tokens, text or counts."""
    tokenizer = tokenizer_from(args)
    if args.file is not None and (len(args.file) > 1 or args.file[0].is_dir()):
        show_counts(tokenizer, args)
    elif args.decode is None and args.count:
        print(count(tokenizer, read(args), args.special)[0])
    elif args.decode is not None:
        show(tokenizer, args, args.decode, tokenizer.decode(args.decode))
    else:
        text = "".join(read(args))
        show(tokenizer, args, tokenizer.encode(text, special=args.special), text)
    return 0


def tokenizer_from(args: argparse.Namespace) -> "Tokenizer":
    """The tokenizer of the checkpoint, or the one that was named, or GPT-2's."""
    if args.checkpoint is not None:
        from gpt2spec.checkpoints.tokenizers import tokenizer_of

        return tokenizer_of(opened(args.checkpoint, args.step), args.tokenizer)
    from gpt2spec.errors import ConfigError
    from gpt2spec.tokenizer import find_tokenizer

    if args.step is not None:
        raise ConfigError("--step says which checkpoint of a run: it needs --checkpoint")
    return find_tokenizer(args.tokenizer or "gpt2")


def show(tokenizer: "Tokenizer", args: argparse.Namespace, ids: Sequence[int], text: str) -> None:
    """Print one text and its tokens in the chosen form."""
    import json

    if args.count:
        print(len(ids))
    elif args.json:
        print(json.dumps(as_json(tokenizer, ids, text), ensure_ascii=False))
    elif args.line:
        print(line(tokenizer.decode_each(ids), sys.stdout.isatty()))
    elif args.decode is not None:
        print(text)
    else:
        print(listing(tokenizer, ids, text))


def read(args: argparse.Namespace) -> Iterator[str]:
    """Read the given text, in pieces."""
    from gpt2spec.data.sources import Source, read_text

    if args.text is not None:
        yield args.text
    elif args.file is not None:
        path = args.file[0]
        yield from read_text(Source(path.name, str(path), lambda: path.open("rb")))
    else:
        yield from read_text(Source("stdin", "standard input", lambda: sys.stdin.buffer))


def count(tokenizer: "Tokenizer", text: Iterable[str], special: bool) -> tuple[int, int]:
    """Count the tokens and bytes of a text of any length, in constant memory and on all cores."""
    from gpt2spec.tokenizer import encode_labelled, split_safely

    pieces = split_safely(text)  # `<|endoftext|>` has no space, so it is never divided
    if special:
        sizes = ((len(tokenizer.encode(piece, special=True)), len(piece.encode())) for piece in pieces)
    else:
        encoded = encode_labelled(tokenizer, ((len(piece.encode("utf-8", "replace")), piece) for piece in pieces))
        sizes = ((len(ids), size) for size, ids in encoded)
    tokens = length = 0
    for more_tokens, more_bytes in sizes:
        tokens, length = tokens + more_tokens, length + more_bytes
    return tokens, length


def show_counts(tokenizer: "Tokenizer", args: argparse.Namespace) -> None:
    """Print how many tokens and bytes each file has, and the total."""
    import json

    from gpt2spec.cli.table import format_table
    from gpt2spec.data.sources import find_sources, read_text
    from gpt2spec.errors import ConfigError

    if args.line:
        raise ConfigError("--line shows one text; the tokens of several files are counted")
    counts = [(each.label, *count(tokenizer, read_text(each), args.special)) for each in find_sources(args.file)]
    if args.json:
        print(json.dumps([{"file": file, "tokens": tokens, "bytes": size} for file, tokens, size in counts]))
        return
    total = ("all", sum(tokens for _, tokens, _ in counts), sum(size for _, _, size in counts))
    rows = [("FILE", "TOKENS", "BYTES", "BYTES/TOKEN")]
    rows += [(file, f"{n:,}", f"{size:,}", f"{size / n:.3f}" if n else "-") for file, n, size in (*counts, total)]
    print(format_table(rows, right=(1, 2, 3)))


def as_json(tokenizer: "Tokenizer", ids: Sequence[int], text: str) -> dict[str, Any]:
    """The text, the ids, and each token's bytes and offsets, because a token need not consist of whole characters."""
    tokens = tokenizer.decode_each(ids)
    places = list(offsets(tokens))
    return {
        "tokenizer": tokenizer.id,
        "text": text,
        "ids": list(ids),
        "bytes": [data.hex() for data in tokens],
        "byte_offsets": [byte for byte, _ in places],
        "character_offsets": [character for _, character in places],
    }


def offsets(tokens: Iterable[bytes]) -> Iterator[tuple[int, int]]:
    """The byte at which each token begins, and the character that this byte belongs to."""
    from gpt2spec.tokenizer.vocabulary import characters_begun

    length = characters = 0
    for data in tokens:
        begins_within = not characters_begun(data[:1])
        yield length, max(0, characters - begins_within)
        length, characters = length + len(data), characters + characters_begun(data)


def listing(tokenizer: "Tokenizer", ids: Sequence[int], text: str) -> str:
    """A table of the tokens with the offsets of their bytes and characters, and a line of totals."""
    from gpt2spec.cli.table import format_table

    rows: list[tuple[str, ...]] = [("ID", "BYTE", "CHAR", "TOKEN")]
    tokens = tokenizer.decode_each(ids)
    for token, (byte, character), data in zip(ids, offsets(tokens), tokens, strict=True):
        rows.append((str(token), str(byte), str(character), readable(data)))
    size = sum(map(len, tokens))
    totals = f"{amount(len(ids), 'token')}, {amount(len(text), 'character')}, {amount(size, 'byte')}"
    return f"{format_table(rows, right=(0, 1, 2))}\n\n{totals}" if ids else totals


def line(tokens: Iterable[bytes], colours: bool) -> str:
    """The text with its tokens separated by strokes, or on a terminal by two background colours."""
    shown = [data.decode("utf-8", errors="backslashreplace").translate(VISIBLE) for data in tokens]
    if not colours:
        return "|".join(shown)
    return "".join(f"\x1b[{(44, 45)[i % 2]}m{text}\x1b[0m" for i, text in enumerate(shown))


def readable(data: bytes) -> str:
    r"""A token as a quoted string, or as b'\x..' if it is not valid UTF-8 by itself."""
    try:
        return repr(data.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(data)


def amount(count: int, noun: str) -> str:
    """`count` of something in words."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
