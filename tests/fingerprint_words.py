"""Fingerprints of the words of the command line: help, tables, and messages about mistakes."""

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fingerprint_runs import SHORT, TEXT, command, normalised

Entries = Iterator[tuple[str, Any]]

HELPS = ["", "train", "generate", "eval", "convert", "info", "data", "data prepare", "data info", "tokenize"]
HELPS += ["tokenizer", "tokenizer train", "backends", "new-backend", "conform", "vectors", "vectors export"]
HELPS += ["vectors judge", "plot"]
TABLES = ["backends", "info", "info gpt2", "info 124M --json", "info nano --devices 4 --batch-size 16", "eval --list"]
TABLES += ["conform --list", "conform --list-mutants", "info --checkpoint demo --hashes", "info --checkpoint run"]
TABLES += ["conform --mutant gelu-erf --level inference --quiet", "--version"]
MISTAKES = {
    "command": ["", "trian", "--version x", "info --nothing", "info gpt2 more"],
    "train": [
        "train --stepz 3",
        "train missing.txt",
        "train short.txt --preset test",
        "train text.txt --preset nan0",
        "train text.txt --preset gpt2 --tokenizer nothing",
        "train text.txt --preset test --set model.vocab_size=100",
        "train text.txt --preset test --recipe gtp3",
        "train text.txt --preset test --steps 0",
        "train text.txt --preset test --lr -1",
        "train text.txt --preset test --context 65",
        "train text.txt --preset test --tokens-per-step 100",
        "train text.txt --preset test --tokens-per-step 64 --accumulate 2",
        "train text.txt --preset test --set optimizer.clap=1",
        "train text.txt --preset test --set optimizer.clip=-1",
        "train text.txt --preset test --set clip",
        "train text.txt --preset test --task-every 3",
        "train text.txt --preset test --task lambada=missing",
        "train text.txt --preset test --task lambda=text.txt",
        "train text.txt --preset test --init-from run",
        "train text.txt --init-from missing",
        "train text.txt --config missing.toml",
        "train text.txt --config wrong.toml",
        "train text.txt --preset test --keep 1",
    ],
    "run": [
        "train text.txt --preset test --out run",
        "train --resume",
        "train --resume --out missing",
        "train --resume 3 --out run",
        "train --resume --out run --lr 1",
        "train --resume --out run --steps 1",
        "train --resume --out run --batch-size 5",
        "train other.txt --resume --out run",
        "generate --checkpoint run --step 3 --prompt x",
        "generate --checkpoint damaged --prompt x",
        "info --checkpoint damaged --hashes",
        "convert damaged new --to hf",
        "train --resume --out damaged",
    ],
    "backend": [
        "train text.txt --preset test --backend nump",
        "train text.txt --preset test --dtype bfloat16",
        "train text.txt --preset test --device gpu",
        "train text.txt --preset test --parallel data",
        "train text.txt --preset test --backend-option mode=slow",
        "train text.txt --preset test --backend-option speed=slow",
        "train text.txt --preset test --backend-option mode",
        "train text.txt --preset test --backend-option compile=true",
        "train text.txt --preset test --checkpoint-format parts",
    ],
    "generate": [
        "generate --prompt x",
        "generate --checkpoint missing --prompt x",
        "generate --checkpoint text.txt --prompt x",
        "generate --checkpoint run --prompt x --max-new-tokens 64",
        "generate --checkpoint run --prompt x --top-p 2",
        "generate --checkpoint run --prompt x --temperature -1",
        "generate --checkpoint run --prompt x --beams 2 --temperature 1",
        "generate --checkpoint run --prompt x --beams 2 --samples 3",
        "generate --checkpoint run --prompt x --beams 2 --overflow slide",
        "generate --checkpoint run --prompt x --top-p-rule none",
        "generate --checkpoint run --prompt x --logprobs 2",
        "generate --checkpoint run --interactive --json",
        "generate --checkpoint run --file missing.txt",
        "generate --checkpoint run --tokenizer missing --prompt x",
    ],
    "others": [
        "eval",
        "eval lambda --checkpoint run --data text.txt",
        "eval lambada --checkpoint run",
        "eval lambada --checkpoint run --data missing",
        "eval lambada --checkpoint run --data text.txt",
        "convert missing new --to hf",
        "convert run new --to onnx",
        "convert run run --to hf",
        "convert run new --to hf --dtype float16",
        "info gpt3",
        "info --hashes",
        "info gpt2 --checkpoint run",
        "info gpt2 --batch-size 0",
        "info gpt2 --devices 4 --parallel nothing",
        "data prepare missing --out new",
        "data prepare text.txt --out new --field body --format docx",
        "data prepare text.txt --out new --val-fraction 2",
        "data info run",
        "tokenize --decode 99999",
        "tokenize x --tokenizer missing",
        "tokenizer train text.txt --vocab-size 10 --out new",
        "conform --case nothing",
        "conform --level nothing",
        "conform --mutant gelu-erv",
        "conform --subject nothing",
        "conform --subject nothing:at_all",
        "conform --expected wrong.toml",
        "vectors judge missing missing",
        "new-backend 7up",
        "plot missing",
    ],
}
FRAMEWORKS = [
    "train text.txt --preset test --backend torch --device gpu",
    "train text.txt --preset test --backend torch --device cpu --parallel tensors",
    "train text.txt --preset test --backend torch --device cpu --parallel sharded",
    "train text.txt --preset test --backend torch --device cpu --dtype float16",
    "train text.txt --preset test --backend torch --device cpu --backend-option compile=some",
    "generate --checkpoint run --prompt x --backend torch --device cpu --dtype float64 --backend-option int8=true",
    "train text.txt --preset test --backend jax --device gpu",
    "train text.txt --preset test --backend jax --parallel rows",
    "train text.txt --preset test --backend jax --backend-option devices=2",
    "train text.txt --preset test --backend jax --backend-option devices=two --parallel data",
    "train text.txt --preset test --backend jax --parallel data --no-compile",
    "train text.txt --preset test --backend jax --parallel data --dtype float64",
    "train text.txt --preset test --backend tinygrad --device CPU --parallel sharded",
    "train text.txt --preset test --backend tinygrad --device CPU --parallel data",
    "train text.txt --preset test --backend tinygrad --device CPU --dtype float16",
]
"""Mistakes about backends whose frameworks are imported to find them."""


def helps(folder: Path) -> Entries:
    """The help of every command and action."""
    yield from ((name or "gpt2spec", told(folder, f"{name} --help")) for name in HELPS)


def tables(folder: Path) -> Entries:
    """What commands show that only look."""
    make_runs(folder)
    yield from ((line, told(folder, line)) for line in TABLES)


def mistakes(folder: Path) -> Entries:
    """Exit code and message of each mistake."""
    make_runs(folder)
    for group, lines in MISTAKES.items():
        yield from ((f"{group}: {line}", told(folder, line)) for line in lines)


def framework_mistakes(folder: Path) -> Entries:
    """Exit code and message of each mistake about a framework."""
    make_runs(folder)
    yield from ((line, told(folder, line)) for line in FRAMEWORKS)


def make_runs(folder: Path) -> None:
    """Texts, settings that are wrong, a run, and the same with a damaged checkpoint."""
    (folder / "text.txt").write_text(TEXT)
    (folder / "other.txt").write_text(TEXT[::-1])
    (folder / "short.txt").write_text("too short")
    (folder / "wrong.toml").write_text("stepz = 3\n")
    train = ["train", "text.txt", "--preset", "test", "--context", "16", *SHORT, "--quiet", "--sample-tokens", "0"]
    for out in ("run", "damaged"):
        command(folder, *train, "--out", out)
    for path in (folder / "damaged").rglob("model.safetensors"):
        values = bytearray(path.read_bytes())
        values[-1] ^= 1
        path.write_bytes(values)


def told(folder: Path, line: str) -> str:
    """The exit code of a command, and what it prints to standard output and to standard error."""
    from gpt2spec.cli.main import main

    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error), contextlib.chdir(folder):
        try:
            code: Any = main(line.split())
        except SystemExit as leaving:
            code = leaving.code
    return normalised(f"{code}\n{out.getvalue()}{error.getvalue()}", folder)


GROUPS: dict[str, Callable[[Path], Entries]] = {
    "words-help": helps,
    "words-tables": tables,
    "words-mistakes": mistakes,
    "words-frameworks": framework_mistakes,
}
