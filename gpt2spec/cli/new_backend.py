"""`gpt2spec new-backend` writes the project of a new backend, which works from the start."""

import argparse
from pathlib import Path

NAME = "new-backend"
HELP = "write the project of a backend of your own, to be filled in"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="the backend's name, such as mychip")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder to make (default: gpt2spec-NAME)")


def run(args: argparse.Namespace) -> int:
    """Write the project and print the next step."""
    import shlex

    from gpt2spec.scaffold import new_backend

    folder = new_backend(args.name, args.out)
    print(f"wrote {folder}")
    print(f"Next: cd {shlex.quote(str(folder))} && pip install -e . && pytest")
    return 0
