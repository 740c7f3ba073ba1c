"""`gpt2spec COMMAND` finds the command and turns errors into messages and exit codes.

Exit code 0 means success. 1 means a defect of this package, with a traceback. 2 means a mistake in the command line or
a `GPT2SpecError`, in one line. 130 means interrupted, 143 terminated, 129 that the terminal was closed, and 141 that
nobody reads the output any more.
"""

import argparse
import errno
import importlib
import io
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol, cast

from gpt2spec.cli.signals import ending_signals
from gpt2spec.errors import GPT2SpecError, nearest


class Command(Protocol):
    """The interface of a command's module."""

    NAME: str
    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Run the command and return its exit code."""


COMMANDS = (
    *("train", "generate", "eval", "convert", "info", "data", "tokenize", "tokenizer"),
    *("backends", "new-backend", "conform", "vectors", "plot"),
)
"""The commands in the order of the help. Each is a module beside this one, with _ for - in its name."""


CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""Errors of full or damaged disks, and of terminals that have gone. Standard output is a file without a name."""


class ShowVersion(argparse.Action):
    """`--version`, which looks up the version only when it is given."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print the version and exit."""
        from gpt2spec import __version__

        print(f"gpt2spec {__version__}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, given as in `sys.argv[1:]`, and return its exit code.

    A command line that cannot be parsed raises `SystemExit(2)`, as argparse does.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for terminals that lack a character
    try:
        try:
            args = parse(sys.argv[1:] if argv is None else list(argv))
            with quiet_frameworks(), ending_signals():
                return cast(int, args.run(args))
        finally:
            sys.stdout.flush()
    except GPT2SpecError as error:
        report_end(f"error: {' '.join(str(error).split())}")
        return 2
    except MemoryError as error:
        report_end(f"error: there is not enough memory: {error}; try a smaller model or batch")
        return 2
    except KeyboardInterrupt:
        report_end("interrupted")
        return 130
    except BrokenPipeError:  # the reader has gone, as `head` does
        discard_output()
        return 141
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        if error.filename is None:
            discard_output()
        report_end(f"error: cannot write {error.filename or 'the output'}: {error.strerror}")
        return 2
    except Exception as error:
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        report_end(
            f"error: {os.strerror(errno.ENOSPC)} for what a framework writes to the folders for temporary files and "
            "caches; TMPDIR and XDG_CACHE_HOME can name others"
        )
        return 2


def report_end(text: str) -> None:
    """Print why the program ends, on standard error if that still exists."""
    with suppress(OSError):
        print(f"gpt2spec: {text}", file=sys.stderr)


def discard_output() -> None:
    """Discard output that could not be written. Otherwise Python would try again at its end, and print an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the arguments; the command's `run` is among them. Only the module of the given command is imported."""
    parser = argparse.ArgumentParser(
        prog="gpt2spec", description="The executable specification of GPT-2.", allow_abbrev=False
    )
    parser.add_argument("--version", action=ShowVersion, nargs=0, help="show the version and exit")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    word = argv[0] if argv else "--help"
    if not word.startswith("-") and word not in COMMANDS:
        parser.error(f"there is no command {word!r}{nearest(word, COMMANDS)}; the commands are {', '.join(COMMANDS)}")
    for name in (word,) if word in COMMANDS else COMMANDS:
        command = cast(Command, importlib.import_module(f"gpt2spec.cli.{name.replace('-', '_')}"))
        subparser = subparsers.add_parser(command.NAME, help=command.HELP, description=command.HELP, allow_abbrev=False)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run, parser=subparser)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        refuse(args.parser, unknown[0])
    return args


def refuse(parser: argparse.ArgumentParser, word: str) -> None:
    """Exit with a usage error about a word that the parser did not understand."""
    if not word.startswith("-"):
        parser.error(f"unexpected argument {word!r}")
    options = set(re.findall(r"--[a-z][a-z0-9-]*", parser.format_help()))
    parser.error(f"there is no option {word!r}{nearest(word.partition('=')[0], options)}")


@contextmanager
def quiet_frameworks() -> Iterator[None]:
    """Keep other packages' warnings off the screen, in log messages too; `python -W` and PYTHONWARNINGS overrule.

    Warnings raised in our own modules and log messages of errors still show.
    """
    if sys.warnoptions:
        yield
        return
    import logging

    last_resort = cast(logging.Handler, logging.lastResort)
    level = last_resort.level
    last_resort.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(?!gpt2spec(\.|$))")
            yield
    finally:
        last_resort.setLevel(level)
