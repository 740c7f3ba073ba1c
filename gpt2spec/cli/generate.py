"""`gpt2spec generate` continues prompts, or begins new texts."""

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gpt2spec.cli.backend_arguments import add_backend_arguments, backend_from
from gpt2spec.cli.checkpoint_arguments import add_checkpoint_arguments, add_tokenizer_argument, opened
from gpt2spec.cli.generate_options import add_decoding_arguments, fitted, options_of
from gpt2spec.errors import DataError

NAME = "generate"
HELP = "continue a prompt with a trained model"


class Prompt(NamedTuple):
    """A text to continue, and its name in errors."""

    name: str
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_checkpoint_arguments(parser, required=True)
    add_tokenizer_argument(parser)

    prompts = parser.add_argument_group("prompts", "Without any, a new text is begun.")
    source = prompts.add_mutually_exclusive_group()
    source.add_argument("--prompt", action="append", metavar="TEXT", help="text to continue; repeatable")
    source.add_argument(
        "--file", type=Path, metavar="FILE", help="one prompt per line, blank lines left out; - is standard input"
    )
    source.add_argument("--interactive", action="store_true", help="ask for prompts, one after the other")
    prompts.add_argument(
        "--special", action="store_true", help="read <|endoftext|> in prompts as the special token, not as text"
    )

    add_decoding_arguments(parser)

    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print one line of JSON for each text")
    output.add_argument(
        "--logprobs",
        type=int,
        dest="alternatives",
        metavar="N",
        help="with --json, the N likeliest tokens at each step",
    )
    output.add_argument("--quiet", action="store_true", help="show no progress and no speed")

    computing = parser.add_argument_group("computing")
    computing.add_argument("--batch-size", type=int, metavar="N", help="texts computed together (default: 16)")
    add_backend_arguments(computing)


def run(args: argparse.Namespace) -> int:
    """Continue the prompts. Wrong options and prompts are reported before anything is computed."""
    options = options_of(args)
    prompts = [] if args.interactive else prompts_of(args)
    checkpoint = opened(args.checkpoint, args.step)
    backend = backend_from(args)

    from gpt2spec.checkpoints.tokenizers import tokenizer_of
    from gpt2spec.cli.generate_output import show
    from gpt2spec.decoding.generator import Generator, check_prompts

    tokenizer = tokenizer_of(checkpoint, args.tokenizer)
    config, params = checkpoint.config, checkpoint.params()
    if not args.ignore_end_of_text:
        options = dataclasses.replace(options, stop_tokens=(*options.stop_tokens, tokenizer.end_of_text))
    if args.interactive:
        from gpt2spec.cli.generate_interactive import converse

        return converse(args, Generator(backend, config, params, tokenizer), tokenizer, options)
    ids = [tokenizer.encode(prompt.text, special=args.special) for prompt in prompts]
    options = fitted(args, options, config, ids)
    check_prompts(config, ids, options, tokenizer, [prompt.name for prompt in prompts])
    generator = Generator(backend, config, params, tokenizer)
    show(generator, [prompt.text for prompt in prompts], ids, options, as_json=args.json, quiet=args.quiet)
    return 0


def prompts_of(args: argparse.Namespace) -> list[Prompt]:
    """The prompts that were given, or the empty one."""
    if args.file is not None:
        return list(prompts_in(args.file))
    texts = args.prompt or [""]
    return [Prompt(f"prompt {i}" if len(texts) > 1 else "the prompt", text) for i, text in enumerate(texts)]


def prompts_in(file: Path) -> Iterator[Prompt]:
    """The lines of a file that are not blank; `-` is standard input. `DataError` where there are none."""
    from gpt2spec.data.sources import Source, read_text

    label = "standard input" if file == Path("-") else str(file)
    source = Source(file.name, label, lambda: sys.stdin.buffer if file == Path("-") else file.open("rb"))
    lines = "".join(read_text(source)).removeprefix("\ufeff").split("\n")
    if not any(map(str.strip, lines)):
        raise DataError(f"{label} holds no prompt: all of it is blank")
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield Prompt(f"line {number} of {label}", line.removesuffix("\r"))
