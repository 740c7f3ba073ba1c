"""The options that say who computes, shared by the commands that compute."""

import argparse
from typing import Any


def add_backend_arguments(parser: Any) -> None:
    """Declare them, to a parser or to a group of it; all are None where they are not given."""
    parser.add_argument("--backend", metavar="NAME", help="`gpt2spec backends` lists them (default: numpy)")
    parser.add_argument("--device", metavar="NAME", help="in the backend's own words")
    parser.add_argument("--dtype", metavar="NAME", help="float32 (default), or bfloat16 or float64 where there is it")
    parser.add_argument(
        "--no-compile",
        action="store_const",
        const={"compile": False},
        dest="backend_options",
        help="let the framework run operation by operation: starts at once, steps may take longer",
    )


def backend_from(args: argparse.Namespace) -> Any:
    """The backend they ask for."""
    from gpt2spec.plugins import load_backend

    return load_backend(
        args.backend or "numpy", device=args.device, dtype=args.dtype or "float32", **(args.backend_options or {})
    )
