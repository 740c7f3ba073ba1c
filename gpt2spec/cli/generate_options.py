"""The options of `gpt2spec generate` that say how texts are made, and the settings that follow from them."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpt2spec.errors import ConfigError

if TYPE_CHECKING:
    from gpt2spec.config import GPT2Config
    from gpt2spec.decoding.options import GenerateOptions

TEMPERATURE = 0.8
"""The default where tokens are drawn: texts of a small model read better than from the plain distribution."""


def add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options. Those left out are as in `GenerateOptions`, except for the temperature."""
    _add_length_arguments(parser)
    _add_choice_arguments(parser)
    _add_beam_arguments(parser)


def _add_length_arguments(parser: argparse.ArgumentParser) -> None:
    length = parser.add_argument_group("where texts end")
    length.add_argument("--max-new-tokens", type=int, metavar="N", help="tokens to add (default: 64, or what fits)")
    length.add_argument(
        "--stop", action="append", metavar="TEXT", help="end before this text, taken literally; repeatable"
    )
    length.add_argument(
        "--stop-token",
        action="append",
        type=int,
        dest="stop_tokens",
        metavar="ID",
        help="end at this token; repeatable",
    )
    length.add_argument("--ignore-end-of-text", action="store_true", help="do not end at <|endoftext|>")
    length.add_argument(
        "--overflow",
        metavar="WHAT",
        help="where a text would pass the context: error (default), or slide, to go on from its last half",
    )


def _add_choice_arguments(parser: argparse.ArgumentParser) -> None:
    choice = parser.add_argument_group("choosing tokens")
    choice.add_argument("--temperature", type=float, metavar="T", help=f"0 is greedy (default: {TEMPERATURE})")
    choice.add_argument("--top-k", type=int, metavar="K", help="keep the K likeliest tokens")
    choice.add_argument("--top-p", type=float, metavar="P", help="keep the likeliest tokens that together reach P")
    choice.add_argument(
        "--top-p-rule", metavar="RULE", help="reach (default), or openai: without the token that passes P"
    )
    choice.add_argument("--min-p", type=float, metavar="P", help="keep tokens P times as likely as the likeliest")
    choice.add_argument(
        "--repetition-penalty", type=float, metavar="X", help="above 1 makes repetitions less likely (default: 1.0)"
    )
    choice.add_argument("--samples", type=int, metavar="N", help="continuations of each prompt (default: 1)")
    choice.add_argument("--seed", type=int, metavar="N", help="another seed, another sample (default: 0)")


def _add_beam_arguments(parser: argparse.ArgumentParser) -> None:
    beams = parser.add_argument_group("beam search", "The likeliest texts instead of drawn ones; --samples shows more.")
    beams.add_argument("--beams", type=int, metavar="N", help="texts to follow at a time (default: 1, no search)")
    beams.add_argument(
        "--length-penalty",
        type=float,
        metavar="X",
        help="scores are divided by the length to this power (default: 0.0)",
    )
    beams.add_argument("--early-stopping", action="store_const", const=True, help="end as soon as N texts have ended")


def options_of(args: argparse.Namespace) -> "GenerateOptions":
    """The settings that the options give; `fitted` then adapts the number of tokens."""
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
    """The settings with fewer new tokens, if no number was given, so that they fit beside the longest prompt."""
    if args.max_new_tokens is not None or options.overflow == "slide":
        return options
    room = config.n_ctx - max(len(ids) or 1 for ids in prompts)
    return dataclasses.replace(options, max_new_tokens=max(1, min(options.max_new_tokens, room)))
