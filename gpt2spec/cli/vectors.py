"""`gpt2spec vectors` writes the conformance suite as files, for implementations in any language.

The suite is imported only when the command runs.
"""

import argparse
import sys
from pathlib import Path

NAME = "vectors"
HELP = "write the conformance suite's questions as files, or judge answers that came as files"
DTYPES = ("float32", "bfloat16", "float16", "float64")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    text = "write models, weights and tokens, and what to compute from them"
    export = actions.add_parser("export", help=text, description=text, allow_abbrev=False)
    export.add_argument("folder", type=Path, metavar="DIR", help="a new or empty folder")
    text = "judge what an implementation computed"
    judge = actions.add_parser("judge", help=text, description=text, allow_abbrev=False)
    judge.add_argument("folder", type=Path, metavar="DIR", help="a folder made by `gpt2spec vectors export`")
    judge.add_argument("outputs", type=Path, metavar="OUTPUTS", help="a folder with <question>.safetensors files")
    judge.add_argument("--name", metavar="NAME", help="what to call the implementation (default: the folder's name)")
    judge.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="what the implementation computes in (default: float32)"
    )
    judge.add_argument("--report", type=Path, metavar="DIR", help="write JSON lines, JUnit, Markdown, HTML and badges")


def run(args: argparse.Namespace) -> int:
    """Export, or judge. Judging returns 0 if all passed, 1 if not, 130 if interrupted."""
    return run_export(args) if args.action == "export" else run_judge(args)


def run_export(args: argparse.Namespace) -> int:
    """Write the questions."""
    from gpt2spec_conformance.vectors import export

    manifest = export(args.folder)
    size = sum(file["bytes"] for file in manifest["files"].values())
    print(f"wrote {len(manifest['questions'])} questions to {args.folder} ({size / 1e6:.1f} MB)")
    return 0


def run_judge(args: argparse.Namespace) -> int:
    """Judge the answers."""
    from gpt2spec_conformance.report import terminal
    from gpt2spec_conformance.report.folder import write_reports
    from gpt2spec_conformance.vectors import judge

    session = judge(args.folder, args.outputs, args.name or args.outputs.resolve().name, args.dtype)
    print(terminal.render(session), end="")
    if args.report:
        write_reports(args.report, [session])
        print(f"wrote {args.report}", file=sys.stderr)
    if not session.complete:
        return 130
    return 0 if session.verdict == "passed" else 1
