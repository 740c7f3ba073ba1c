"""`gpt2spec generate`: continue prompts, or begin new texts."""

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gpt2spec.cli.backend_arguments import add_backend_arguments, backend_from
from gpt2spec.cli.checkpoint_arguments import add_checkpoint_arguments, add_tokenizer_argument, opened
from gpt2spec.errors import ConfigError, DataError

if TYPE_CHECKING:
    from gpt2spec.config import GPT2Config
    from gpt2spec.decoding.options import GenerateOptions

NAME = "generate"
HELP = "continue a prompt with a trained model"

TEMPERATURE = 0.8
"""Where none is given and tokens are drawn: of a small model, easier to read than the plain distribution."""


class Prompt(NamedTuple):
    """A text to continue, and what errors call it."""

    name: str
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments. Those left out are as in `GenerateOptions`, but for the temperature."""
    add_checkpoint_arguments(parser, required=True)
    add_tokenizer_argument(parser)

    prompts = parser.add_argument_group("prompts", "Without any, a new text is begun.")
    source = prompts.add_mutually_exclusive_group()
    source.add_argument("--prompt", action="append", metavar="TEXT", help="text to continue; repeatable")
    source.add_argument(
        "--file", type=Path, metavar="FILE", help="a prompt a line, blank lines left out; - is standard input"
    )
    source.add_argument("--interactive", action="store_true", help="ask for prompts, one after the other")
    prompts.add_argument(
        "--special", action="store_true", help="read <|endoftext|> in prompts as the special token, not as text"
    )

    length = parser.add_argument_group("where texts end")
    length.add_argument("--max-new-tokens", type=int, metavar="N", help="tokens to add (default: 64, or what fits)")
    length.add_argument(
        "--stop", action="append", metavar="TEXT", help="end before this text, taken literally; repeatable"
    )
    length.add_argument(
        "--stop-token", action="append", type=int, dest="stop_tokens", metavar="ID", help="end at it; repeatable"
    )
    length.add_argument("--ignore-end-of-text", action="store_true", help="do not end at <|endoftext|>")
    length.add_argument(
        "--overflow",
        metavar="WHAT",
        help="where a text would pass the context: error (default), or slide, to go on from its last half",
    )

    choice = parser.add_argument_group("choosing tokens")
    choice.add_argument("--temperature", type=float, metavar="T", help=f"0 is greedy (default: {TEMPERATURE})")
    choice.add_argument("--top-k", type=int, metavar="K", help="keep the K likeliest tokens")
    choice.add_argument("--top-p", type=float, metavar="P", help="keep the likeliest tokens that together reach P")
    choice.add_argument(
        "--top-p-rule", metavar="RULE", help="reach (default), or openai: without the token that passes P"
    )
    choice.add_argument("--min-p", type=float, metavar="P", help="keep tokens P times as likely as the likeliest")
    choice.add_argument(
        "--repetition-penalty", type=float, metavar="X", help="above 1, words come less often again (default: 1.0)"
    )
    choice.add_argument("--samples", type=int, metavar="N", help="continuations of each prompt (default: 1)")
    choice.add_argument("--seed", type=int, metavar="N", help="another seed, another sample (default: 0)")

    beams = parser.add_argument_group("beam search", "The likeliest texts instead of drawn ones; --samples shows more.")
    beams.add_argument("--beams", type=int, metavar="N", help="texts to follow at a time (default: 1, no search)")
    beams.add_argument(
        "--length-penalty", type=float, metavar="X", help="scores are over length to this power (default: 0.0)"
    )
    beams.add_argument("--early-stopping", action="store_const", const=True, help="end as soon as N texts have ended")

    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print one JSON object a line for each text")
    output.add_argument(
        "--logprobs", type=int, dest="alternatives", metavar="N", help="with --json, the N likeliest tokens each time"
    )
    output.add_argument("--quiet", action="store_true", help="show no progress and no speed")

    computing = parser.add_argument_group("computing")
    computing.add_argument("--batch-size", type=int, metavar="N", help="texts computed together (default: 16)")
    add_backend_arguments(computing)


def run(args: argparse.Namespace) -> int:
    """Continue the prompts. What is wrong with settings and prompts is told before anything is computed."""
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


def options_of(args: argparse.Namespace) -> "GenerateOptions":
    """What the options say of decoding; `fitted` has more to say about the number of tokens."""
    from gpt2spec.decoding.options import GenerateOptions

    if args.interactive and args.json:
        raise ConfigError("--interactive is for people, and --json for programs: give them prompts by --file -")
    if args.alternatives is not None and not args.json:
        raise ConfigError("--logprobs needs --json, which is where they are shown")
    names = [field.name for field in dataclasses.fields(GenerateOptions)]
    given = {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
    if given.get("beams", 1) == 1:
        given.setdefault("temperature", TEMPERATURE)
    return GenerateOptions(**given)


def fitted(
    args: argparse.Namespace, options: "GenerateOptions", config: "GPT2Config", prompts: Sequence[Sequence[int]]
) -> "GenerateOptions":
    """The options with a number of new tokens, where none was given, that fits beside the longest prompt."""
    if args.max_new_tokens is not None or options.overflow == "slide":
        return options
    room = config.n_ctx - max(len(ids) or 1 for ids in prompts)
    return dataclasses.replace(options, max_new_tokens=max(1, min(options.max_new_tokens, room)))


def prompts_of(args: argparse.Namespace) -> list[Prompt]:
    """The prompts that were given, or the empty one."""
    if args.file is not None:
        return list(prompts_in(args.file))
    texts = args.prompt or [""]
    return [Prompt(f"prompt {i}" if len(texts) > 1 else "the prompt", text) for i, text in enumerate(texts)]


def prompts_in(file: Path) -> Iterator[Prompt]:
    """The lines of a file that are not blank; `-` is standard input. Where there are none: `DataError`."""
    from gpt2spec.data.sources import Source, read_text

    label = "standard input" if file == Path("-") else str(file)
    source = Source(file.name, label, lambda: sys.stdin.buffer if file == Path("-") else file.open("rb"))
    lines = "".join(read_text(source)).removeprefix("\ufeff").split("\n")
    if not any(map(str.strip, lines)):
        raise DataError(f"{label} holds no prompt: all of it is blank")
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield Prompt(f"line {number} of {label}", line.removesuffix("\r"))
