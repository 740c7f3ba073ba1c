"""`gpt2spec plot` draws the loss curves of runs, and their scores in tasks."""

import argparse
from pathlib import Path

NAME = "plot"
HELP = "draw the losses of one or several runs, and their scores in tasks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="DIR", help="run directories")
    parser.add_argument(
        "--out", type=Path, default=Path("loss.png"), metavar="FILE", help=".png or .svg (default: loss.png)"
    )


def run(args: argparse.Namespace) -> int:
    """Draw all runs into one picture."""
    from gpt2spec.training.plot import plot_runs

    plot_runs(args.runs, args.out)
    print(f"wrote {args.out}")
    return 0
