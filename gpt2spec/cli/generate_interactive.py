"""`gpt2spec generate --interactive` takes one prompt after the other, with the weights loaded once."""

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING

from gpt2spec.cli.generate_options import fitted
from gpt2spec.cli.generate_output import show
from gpt2spec.errors import GPT2SpecError

if TYPE_CHECKING:
    from gpt2spec.decoding.generator import Generator
    from gpt2spec.decoding.options import GenerateOptions
    from gpt2spec.tokenizer import Tokenizer

INTRODUCTION = "A line is a prompt; an empty line begins a new text. Ctrl-C ends a text, Ctrl-D leaves."


def converse(
    args: argparse.Namespace, generator: "Generator", tokenizer: "Tokenizer", options: "GenerateOptions"
) -> int:
    """Continue each line that is typed, until there are no more. Returns the exit code.

    Every text has another seed, so that a prompt that is given twice has two continuations.
    """
    from gpt2spec.decoding.generator import check_prompts

    edit_lines()
    print(INTRODUCTION, file=sys.stderr, flush=True)
    while True:
        try:
            line = input("> ")
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            print()
            continue
        except UnicodeDecodeError:
            complain("the line is not UTF-8 text")
            continue
        try:
            ids = tokenizer.encode(line, special=args.special)
            now = fitted(args, options, generator.config, [ids])
            check_prompts(generator.config, [ids], now, tokenizer, ["the prompt"])
            show(generator, [line], [ids], now, quiet=True)
        except KeyboardInterrupt:
            pass
        except GPT2SpecError as error:
            complain(str(error))
            continue
        options = dataclasses.replace(options, seed=options.seed + 1)


def edit_lines() -> None:
    """Let lines be edited and recalled, if Python has `readline`."""
    try:
        import readline
    except ImportError:
        return
    readline.parse_and_bind("tab: self-insert")  # instead of completing file names


def complain(message: str) -> None:
    """Print what is wrong with a line, without ending."""
    print(f"gpt2spec: error: {message}", file=sys.stderr, flush=True)
