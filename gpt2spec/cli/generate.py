"""`gpt2spec generate`: continue a prompt."""

import argparse
from pathlib import Path

from gpt2spec.cli.backend_arguments import add_backend_arguments, backend_from

NAME = "generate"
HELP = "continue a prompt with a trained model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="run directory or checkpoint")
    parser.add_argument("--step", type=int, metavar="N", help="which checkpoint of a run (default: the last)")
    parser.add_argument("--prompt", default="", help="text to continue (default: the beginning of a new text)")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="tokens to add (default: 64, or what fits)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 is greedy (default: 0.8)")
    parser.add_argument("--top-k", type=int, metavar="K", help="keep the K likeliest tokens")
    parser.add_argument("--top-p", type=float, metavar="P", help="keep the likeliest tokens that together reach P")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another sample (default: 0)")
    add_backend_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the prompt and its continuation."""
    from gpt2spec.checkpoints.native import find_checkpoint, load_model, load_progress
    from gpt2spec.decoding.loop import generate
    from gpt2spec.tokenizer import tokenizer_with_id

    checkpoint = find_checkpoint(args.checkpoint, args.step)
    config, params = load_model(checkpoint)
    tokenizer = tokenizer_with_id(load_progress(checkpoint).get("tokenizer", "unknown"))
    backend = backend_from(args)
    prompt = tokenizer.encode(args.prompt) or [tokenizer.end_of_text]
    room = max(1, min(64, config.n_ctx - len(prompt)))
    generation = generate(
        backend,
        config,
        params,
        [prompt],
        max_new_tokens=room if args.max_new_tokens is None else args.max_new_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        seed=args.seed,
        stop_token=tokenizer.end_of_text,
    )[0]
    print(args.prompt + tokenizer.decode(generation.tokens))
    return 0
