"""Fingerprints of everything that a refactoring must leave as it is: numbers bit by bit, files, and words.

    python tests/fingerprints.py record before.json
    ... change nothing but the code ...
    python tests/fingerprints.py record after.json && python tests/fingerprints.py compare before.json after.json

A recording holds named entries: a hash of an array, or a text. Two recordings can be compared where they were made on
one machine with the same packages. What is imported is the `gpt2spec` that Python finds, so that PYTHONPATH can name
the tree of another commit: only the command line and the public interface of the package are used.

The entries come in groups, each of which runs in a process of its own, on one thread, with empty caches. `--only` is a
regular expression of groups' names, which `list` shows.
"""

import argparse
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fingerprint_models
import fingerprint_runs
import fingerprint_words
import numpy as np

GROUPS = {**fingerprint_models.GROUPS, **fingerprint_runs.GROUPS, **fingerprint_words.GROUPS}
"""Each group's name, and the function of an empty folder that yields its (name, value) pairs."""
PACKAGES = ("numpy", "autograd", "torch", "jax", "jaxlib", "tinygrad", "safetensors", "tokenizers")
PROCESSES = 2
"""Groups that are recorded at a time."""
SHOWN = 120
"""Characters of a line that are shown where it differs."""
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "JAX_PLATFORMS": "cpu",
    "PYTHONHASHSEED": "0",
    "COLUMNS": "80",
    "NO_COLOR": "1",
    "TZ": "UTC",
    "LC_ALL": "C.UTF-8",
}
"""What makes a recording the same every time."""


def main(argv: list[str] | None = None) -> int:
    """Record, compare, or list the groups. Comparing returns 1 where anything differs."""
    args = parsed(argv)
    if args.action == "list":
        print("\n".join(GROUPS))
        return 0
    if args.action == "group":
        found = entries(args.name, Path.cwd())
        args.out.write_text(json.dumps({"seconds": sum(os.times()[:4]), "entries": found}))
        return 0
    if args.action == "record":
        return record(args.out, args.only)
    lines = list(differences(*(json.loads(path.read_text()) for path in (args.before, args.after)), args.only))
    print("\n".join(lines) if lines else "The same.")
    return 1 if lines else 0


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Record what must not change, and compare two recordings.")
    actions = parser.add_subparsers(dest="action", required=True)
    recording = actions.add_parser("record", help="compute every entry and write them to a file")
    recording.add_argument("out", type=Path)
    comparing = actions.add_parser("compare", help="print a line for each entry that differs; exit with 1 if one does")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    for action in (recording, comparing):
        action.add_argument("--only", metavar="PATTERN", default="", help="a regular expression of groups' names")
    actions.add_parser("list", help="print the groups' names")
    group = actions.add_parser("group", help="compute one group here: for `record`")
    group.add_argument("name")
    group.add_argument("out", type=Path)
    return parser.parse_args(argv)


def record(out: Path, only: str) -> int:
    """Write a recording of the groups that `only` matches. Returns 1 where a group fails, which the others survive."""
    names = [name for name in GROUPS if re.search(only, name)]
    with tempfile.TemporaryDirectory(prefix="fingerprints-") as folder, ThreadPoolExecutor(PROCESSES) as pool:
        found = list(pool.map(lambda name: recorded(name, Path(folder)), names))
    recording = {
        "environment": environment(),
        "entries": {f"{name}/{entry}": text for name, group in zip(names, found, strict=True) for entry, text in group},
    }
    out.write_text(json.dumps(recording, indent=1) + "\n")
    failed = [name for name, group in zip(names, found, strict=True) if "failed" in dict(group)]
    print(f"{len(recording['entries'])} entries; failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


def recorded(name: str, folder: Path) -> list[tuple[str, str]]:
    """The entries of one group, computed in a process of its own; where it fails, "failed" and why."""
    place, result = folder / name, folder / f"{name}.json"
    place.mkdir()
    paths = [str(Path(path).resolve()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    variables = {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths), "XDG_CACHE_HOME": str(place)}
    line = [sys.executable, str(Path(__file__).resolve()), "group", name, str(result)]
    done = subprocess.run(line, cwd=place, env=variables, capture_output=True, text=True)
    if done.returncode == 0:
        group = json.loads(result.read_text())
        print(f"{name}: {len(group['entries'])} entries, {group['seconds']:.0f} s of a core", file=sys.stderr)
        return list(group["entries"].items())
    print(f"{name} failed:\n{done.stderr}", file=sys.stderr)
    return [("failed", (done.stderr.strip().splitlines() or ["without a word"])[-1])]


def entries(name: str, folder: Path) -> dict[str, str]:
    """The entries of a group, computed in this process; each name comes once."""
    found: dict[str, str] = {}
    for entry, value in GROUPS[name](folder):
        if entry in found:
            raise ValueError(f"two entries of {name} are called {entry}")
        found[entry] = printed(value)
    return found


def printed(value: Any) -> str:
    """A text as it is, bytes and arrays by a hash of every bit, anything else as Python prints it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return f"{len(value)} bytes {hashlib.blake2b(value, digest_size=16).hexdigest()}"
    if isinstance(value, np.ndarray):
        bits = hashlib.blake2b(np.ascontiguousarray(value).tobytes(), digest_size=16).hexdigest()
        return f"{value.dtype} {list(value.shape)} {bits}"
    return repr(value)


def environment() -> dict[str, str]:
    """What two recordings must have in common to be compared."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {"machine": platform.machine(), "cores": str(os.cpu_count()), "python": sys.version.split()[0], **versions}


def differences(before: dict[str, Any], after: dict[str, Any], only: str = "") -> Iterator[str]:
    """A line for each entry of the groups that `only` matches which is not the same in both recordings."""
    for name, text in before["environment"].items():
        if after["environment"].get(name) != text:
            yield f"environment: {name} was {text} and is {after['environment'].get(name)}: bits may differ for that"
    old, new = before["entries"], after["entries"]
    for name in dict.fromkeys([*old, *new]):
        if not re.search(only, name.partition("/")[0]) or old.get(name) == new.get(name):
            continue
        if name not in new:
            yield f"{name}: missing after"
        elif name not in old:
            yield f"{name}: missing before"
        else:
            yield f"{name}: {first_difference(old[name], new[name])}"


def first_difference(old: str, new: str) -> str:
    """The first line in which two texts differ, as it was and is; of a long one, what follows the first difference."""
    pairs = itertools.zip_longest(old.splitlines(), new.splitlines(), fillvalue="")
    number, was, now = next((i, was, now) for i, (was, now) in enumerate([*pairs, (old, new)], 1) if was != now)
    same = next((i for i, (a, b) in enumerate(zip(was, now, strict=False)) if a != b), min(len(was), len(now)))
    begin = max(0, same - SHOWN // 3)
    was, now = (("..." if begin else "") + text[begin : begin + SHOWN] for text in (was, now))
    return f"line {number} was {was!r} and is {now!r}"


if __name__ == "__main__":
    sys.exit(main())
