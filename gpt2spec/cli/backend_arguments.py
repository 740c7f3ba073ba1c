"""The options that choose a backend, shared by the commands that compute."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2spec.backend import Backend


def add_backend_arguments(parser: argparse._ActionsContainer) -> None:
    """Declare the options in a parser or in a group of its options. Options that are not given are None."""
    parser.add_argument("--backend", metavar="NAME", help="`gpt2spec backends` lists them (default: numpy)")
    parser.add_argument("--device", metavar="NAME", help="in the backend's own words")
    parser.add_argument(
        "--dtype", metavar="NAME", help="float32 (default), or bfloat16 or float64 where the backend has it"
    )
    parser.add_argument(
        "--no-compile",
        action=NamedValue,
        nargs=0,
        const="compile=false",
        dest="backend_options",
        help="let the framework run operation by operation: starts at once, steps may take longer",
    )
    parser.add_argument(
        "--backend-option",
        action=NamedValue,
        dest="backend_options",
        metavar="NAME=VALUE",
        help="an option of the backend's own, as int8=true of torch; repeatable",
    )


class NamedValue(argparse.Action):
    """Collects NAME=VALUE, from the command line or from `const`, in a dict."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        """Add one name with its value."""
        name, equals, value = (self.const or values).partition("=")
        if not name or not equals:
            parser.error(f"{self.option_strings[0]} takes {self.metavar}, not {values!r}")
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), name: value})


def backend_from(args: argparse.Namespace) -> "Backend":
    """Load the backend that the options choose."""
    from gpt2spec.plugins import load_backend

    return load_backend(
        args.backend or "numpy", device=args.device, dtype=args.dtype or "float32", **(args.backend_options or {})
    )
