"""`gpt2spec conform` judges by the conformance suite whether a backend, or any implementation, is GPT-2.

In the core, only this command and `vectors` import the suite, and only when they run.
"""

import argparse
import functools
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2spec.cli.backend_arguments import add_backend_arguments, backend_from
from gpt2spec.errors import ConfigError, GPT2SpecError, nearest

if TYPE_CHECKING:
    from gpt2spec_conformance.case import Case
    from gpt2spec_conformance.findings import SessionReport
    from gpt2spec_conformance.subject import Subject

NAME = "conform"
HELP = "judge whether a backend, or any implementation, is GPT-2"

ALL = "all"
"""The value of `--backend` for every installed backend."""
FULL = "float32"
"""The precision in which a backend must conform before it is judged in a lower one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    from gpt2spec_conformance.level import level_names

    subject = parser.add_argument_group("who is judged")
    add_backend_arguments(subject)
    subject.add_argument(
        "--subject", metavar="MODULE:FACTORY", help="an implementation of one's own, made by FACTORY()"
    )
    subject.add_argument(
        "--mutant", action="append", default=[], metavar="NAME", help="make this mistake in the backend; repeatable"
    )
    cases = parser.add_argument_group("what is asked")
    cases.add_argument(
        "--level",
        action="append",
        default=[],
        metavar="LEVEL",
        help=f"only {level_names()}; repeatable",
    )
    cases.add_argument(
        "--case", action="append", default=[], metavar="ID", help="only these cases; * matches; repeatable"
    )
    cases.add_argument("--expected", type=Path, metavar="FILE", help="TOML file of failures that are known")
    output = parser.add_argument_group("what is shown")
    output.add_argument("--report", type=Path, metavar="DIR", help="write JSON lines, JUnit, Markdown, HTML and badges")
    output.add_argument("--list", action="store_true", help="list the cases and leave")
    output.add_argument("--list-mutants", action="store_true", help="list the known mistakes and leave")
    output.add_argument("--quiet", action="store_true", help="show no progress")


def run(args: argparse.Namespace) -> int:
    """Judge every chosen subject. Returns 0 if all passed, 1 if not, 130 if interrupted."""
    from gpt2spec_conformance.expected import read_expected
    from gpt2spec_conformance.selection import select_cases

    if args.list_mutants:
        print(mutant_table())
        return 0
    cases = select_cases(args.level, args.case)
    if args.list:
        print(case_table(cases))
        return 0
    expected = read_expected(args.expected) if args.expected else {}
    outcomes: list[SessionReport | None] = []
    interrupted = False
    try:
        for outcome in judge_all(args, cases, expected):
            outcomes.append(outcome)  # one by one, so that Ctrl-C keeps the finished ones
            interrupted = outcome is not None and not outcome.complete
            if interrupted:
                break
    except KeyboardInterrupt:
        print("interrupted before the next subject", file=sys.stderr)
        interrupted = True
    write(args, [session for session in outcomes if session])
    if interrupted:
        return 130
    return 0 if outcomes and all(session and session.verdict == "passed" for session in outcomes) else 1


def judge_all(args: argparse.Namespace, cases: Sequence["Case"], expected: Any) -> Iterator["SessionReport | None"]:
    """Run a session of each subject and show it at its end. Yields None for a subject that could not be made.

    After such a fault it continues only with `--backend all`.
    """
    from gpt2spec_conformance.report import terminal
    from gpt2spec_conformance.report.progress import Progress
    from gpt2spec_conformance.selection import applies
    from gpt2spec_conformance.session import run_session

    for name, make in subjects(args):
        try:
            subject = make()
            before = full_precision(args, name, subject, cases, expected)
        except GPT2SpecError as error:
            if args.backend != ALL:
                raise
            print(f"{name}: FAILED: it cannot be judged: {error}\n", flush=True)
            yield None
            continue
        if before and (before.verdict != "passed" or not any(applies(case, subject) for case in cases)):
            yield before
            continue
        with Progress(subject.name, len(cases), args.quiet) as progress:
            session = run_session(subject, cases, expected=expected, command=command(args, name), progress=progress)
        print(terminal.render(session), end="\n" if args.backend == ALL else "", flush=True)
        yield session


def full_precision(
    args: argparse.Namespace, name: str, subject: "Subject", cases: Sequence["Case"], expected: Any
) -> "SessionReport | None":
    """Judge a backend in float32 before it is judged in a lower precision, and print the verdict in a line.

    The larger epsilons of a lower precision would hide many a mistake. Returns None where there is nothing to judge.
    """
    from gpt2spec_conformance.report import summary
    from gpt2spec_conformance.report.progress import Progress
    from gpt2spec_conformance.selection import applies
    from gpt2spec_conformance.session import run_session

    full = full_precision_arguments(args, name, subject)
    if full is None:
        return None
    before = backend_subject(full)
    if not any(applies(case, before) for case in cases):
        return None
    with Progress(f"{before.name} in {FULL}", len(cases), args.quiet) as progress:
        session = run_session(before, cases, expected=expected, command=command(full, name), progress=progress)
    lower = " and ".join(what for what in (args.dtype, subject.decoding_weights) if what not in (None, "", FULL))
    print(f"{name} in {FULL}, before {lower}: {summary.verdict_line(session)}", flush=True)
    if session.verdict == "failed":
        print(f"{name} is not judged in {lower} before it conforms in {FULL}:\n    {session.header.command}")
    return session


def full_precision_arguments(args: argparse.Namespace, name: str, subject: "Subject") -> argparse.Namespace | None:
    """The arguments for the same backend in float32 with exact weights; None where these are given already."""
    from gpt2spec_conformance.error import EPSILON

    options = dict(args.backend_options or {})
    rounds = options.pop(subject.decoding_weights, None) is not None
    if not rounds and (args.dtype is None or EPSILON.get(args.dtype, 0.0) <= EPSILON[FULL]):
        return None
    return argparse.Namespace(**{**vars(args), "backend": name, "dtype": FULL, "backend_options": options or None})


def write(args: argparse.Namespace, sessions: Sequence["SessionReport"]) -> None:
    """Write the report, if one was requested and there is anything to report."""
    from gpt2spec_conformance.report.folder import write_reports

    if args.report and sessions:
        write_reports(args.report, sessions)
        print(f"the report is in {args.report}", file=sys.stderr)


def subjects(args: argparse.Namespace) -> Iterator[tuple[str, Callable[[], "Subject"]]]:
    """The name of each chosen subject, and a function that makes it."""
    from gpt2spec_conformance.subjects.loading import local_subject

    from gpt2spec.plugins import backend_listings

    if args.subject:
        given = [args.backend, args.device, args.dtype, args.backend_options, *args.mutant]
        if any(value is not None for value in given):
            raise ConfigError(
                "--subject is by itself: it cannot be given with --backend and its options, or with --mutant"
            )
        yield args.subject, lambda: local_subject(args.subject)
    elif args.backend != ALL:
        yield args.backend or "numpy", lambda: backend_subject(args)
    else:
        for listing in backend_listings():
            if listing.missing and not listing.plugin.fault:
                print(f"{listing.name}: left out: {listing.status}", file=sys.stderr)
            else:
                named = argparse.Namespace(**{**vars(args), "backend": listing.name})
                yield listing.name, functools.partial(backend_subject, named)


def backend_subject(args: argparse.Namespace) -> "Subject":
    """The backend as a subject, with the mistakes that `--mutant` names."""
    from gpt2spec_conformance.mutants import MutatedSubject, catalogue
    from gpt2spec_conformance.subject import BackendSubject

    for name in args.mutant:
        if name not in catalogue():
            raise ConfigError(f"there is no mutant {name!r}{nearest(name, catalogue())}; --list-mutants shows them")
    backend = backend_from(args)
    return (
        MutatedSubject(backend, [catalogue()[name] for name in args.mutant]) if args.mutant else BackendSubject(backend)
    )


def command(args: argparse.Namespace, name: str) -> str:
    """The command line that judges one of the subjects, without the options that select cases."""
    subject = ["--subject" if args.subject else "--backend", name]
    device = [
        word for option in ("device", "dtype") if (value := getattr(args, option)) for word in (f"--{option}", value)
    ]
    options = (args.backend_options or {}).items()
    own = [word for option, value in options for word in ("--backend-option", f"{option}={value}")]
    mutants = [word for mutant in args.mutant for word in ("--mutant", mutant)]
    expected = ["--expected", str(args.expected)] if args.expected else []
    return shlex.join(["gpt2spec", "conform", *subject, *device, *own, *mutants, *expected])


def case_table(cases: Sequence["Case"]) -> str:
    """A table of the cases and of what holds if they pass."""
    from gpt2spec.cli.table import format_table

    return format_table([("CASE", "LEVEL", "SUMMARY"), *((case.id, case.level, case.summary) for case in cases)])


def mutant_table() -> str:
    """A table of the known mistakes and of the case that catches each."""
    from gpt2spec_conformance.mutants import catalogue

    from gpt2spec.cli.table import format_table

    rows = [(mutant.name, mutant.killed_by or "-", mutant.summary) for mutant in catalogue().values()]
    return format_table([("MUTANT", "KILLED BY", "SUMMARY"), *rows])
