"""`gpt2spec train` trains a GPT-2, or resumes a run."""

import argparse
import dataclasses
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2spec.cli.backend_arguments import NamedValue, add_backend_arguments

if TYPE_CHECKING:
    from gpt2spec.training.loop import Outcome
    from gpt2spec.training.settings import RunSettings

NAME = "train"
HELP = "train a GPT-2 on a text"

# What a resumed run may change: where and how long it runs; not the model, its data or its optimizer.
CHANGEABLE = frozenset(
    {"data", "verify_data", "backend", "device", "parallel", "backend_options"}
    | {"batch_size", "accumulate", "tokens_per_step"}  # how a step's windows are divided; not how many they are
    | {"steps", "eval_every", "eval_windows", "checkpoint_every", "checkpoint_format"}
    | {"keep", "keep_every", "keep_best", "sample_tokens"}
    | {"sample_every", "patience", "spike", "on_spike", "tensorboard", "device_flops"}
    | {"tasks", "task_every", "task_limit"}
)

# What goes with the preset, recipe or backend of a --config file, or of a resumed run, when an option chooses another.
DECIDED_BY = {
    "preset": ("model", "context", "lr", "warmup", "dropout"),
    "recipe": ("optimizer", "lr", "warmup", "dropout"),
    "backend": ("device", "parallel", "backend_options"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments. Those left out are as in --config, or else as in `RunSettings`."""
    parser.add_argument(
        "data",
        nargs="*",
        metavar="DATA",
        help="a folder made by `gpt2spec data prepare`, text (.txt, .jsonl, .csv, .parquet), or token files of nanoGPT "
        "or llm.c; several to mix them, each as DATA:WEIGHT; left out, the text of Python's own language reference",
    )
    run = parser.add_argument_group("the run")
    add_run_arguments(run)
    add_checkpoint_arguments(run)
    add_report_arguments(run)
    add_model_arguments(parser.add_argument_group("the model"))
    optimizer = parser.add_argument_group("the optimizer")
    optimizer.add_argument("--recipe", metavar="NAME", help="brief (default), gpt3, nanogpt or llmc")
    optimizer.add_argument("--lr", type=float, help="peak learning rate (default: the recipe's for this width)")
    optimizer.add_argument("--warmup", type=int, metavar="N", help="updates of linear warm-up (default: the recipe's)")
    backend = parser.add_argument_group("the backend")
    add_backend_arguments(backend)
    backend.add_argument(
        "--parallel",
        metavar="KIND",
        help="how several devices share the work: data, sharded (docs/distributed.md); or none, to resume with one",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other setting, as in the TOML file: model.n_layer=4, optimizer.clip=1.0, backend_options.mode='fast'",
    )


def add_run_arguments(run: argparse._ActionsContainer) -> None:
    """Declare the folder of a run, how it begins, and how long it is."""
    run.add_argument(
        "--no-verify-data",
        action="store_false",
        dest="verify_data",
        default=None,
        help="begin without comparing the data with its checksums",
    )
    run.add_argument("--out", type=Path, metavar="DIR", help="run directory (default: runs/PRESET-DATE-TIME)")
    run.add_argument(
        "--resume",
        nargs="?",
        const=-1,
        type=int,
        metavar="STEP",
        help="go on with the run in --out, from its last checkpoint or the one of STEP",
    )
    run.add_argument(
        "--auto-resume", action="store_true", help="go on with the run in --out if there is one, otherwise begin it"
    )
    run.add_argument("--config", type=Path, metavar="FILE", help="settings from a TOML file; options win over it")
    run.add_argument("--seed", type=int, help="of weights, data order, dropout and samples (default: 0)")
    run.add_argument("--steps", type=int, metavar="N", help="updates in all (default: 600)")


def add_checkpoint_arguments(run: argparse._ActionsContainer) -> None:
    """Declare when a run is validated and saved, and what ends it early."""
    run.add_argument("--eval-every", type=int, metavar="N", help="updates between validations (default: 100)")
    run.add_argument(
        "--eval-windows", type=int, metavar="N", help="windows of the validation split to look at (default: 64)"
    )
    run.add_argument("--checkpoint-every", type=int, metavar="N", help="updates between checkpoints (default: 200)")
    run.add_argument(
        "--checkpoint-format",
        choices=("whole", "parts"),
        help="one file of weights, or what each process holds (default: parts where none holds all of them)",
    )
    run.add_argument("--keep", type=int, metavar="N", help="last checkpoints to keep, at least 2 (default: 3)")
    run.add_argument("--keep-every", type=int, metavar="K", help="keep those of every K-th update as well")
    run.add_argument(
        "--keep-best", action="store_true", default=None, help="keep, and save, the one of the lowest validation loss"
    )
    run.add_argument(
        "--patience", type=int, metavar="N", help="stop after N validations in a row that are no new lowest"
    )
    run.add_argument(
        "--spike", type=float, metavar="Z", help="a loss or gradient Z deviations above the last 128 steps is a spike"
    )
    run.add_argument(
        "--on-spike",
        choices=("stop", "skip"),
        help="what to do at a spike, or at a loss of nan (default: stop)",
    )


def add_report_arguments(run: argparse._ActionsContainer) -> None:
    """Declare what a run shows and logs."""
    run.add_argument("--sample-tokens", type=int, metavar="N", help="length of a sample; 0 for none (default: 96)")
    run.add_argument("--sample-every", type=int, metavar="N", help="updates between samples (default: one at the end)")
    run.add_argument(
        "--task",
        action=NamedValue,
        dest="tasks",
        metavar="TASK=PATH",
        help="score the model in a task of `gpt2spec eval` on the data in PATH; repeatable",
    )
    run.add_argument("--task-every", type=int, metavar="N", help="updates between such scores (default: at the end)")
    run.add_argument("--task-limit", type=int, metavar="N", help="only the first N examples of each task")
    run.add_argument("--tensorboard", action="store_true", default=None, help="write TensorBoard's event files as well")
    run.add_argument("--profile", type=int, metavar="N", help="trace N updates with the framework's own profiler")
    run.add_argument("--device-flops", type=float, metavar="F", help="operations a second of a device, to log its use")
    run.add_argument("--quiet", action="store_true", help="show no progress")


def add_model_arguments(model: argparse._ActionsContainer) -> None:
    """Declare which model is trained, and on how much at a time."""
    model.add_argument("--preset", metavar="NAME", help="its size; `gpt2spec info` lists them (default: nano)")
    model.add_argument(
        "--init-from", metavar="PATH", help="begin with the model and weights of a checkpoint of any format"
    )
    model.add_argument(
        "--tokenizer", metavar="NAME|DIR", help="of raw text: gpt2, bytes (default for nano), or a folder with one"
    )
    model.add_argument("--dropout", type=float, metavar="P", help="rate on embeddings and residual branches")
    model.add_argument("--context", type=int, metavar="T", help="tokens in a window (default: the model's n_ctx)")
    model.add_argument("--batch-size", type=int, metavar="B", help="windows computed at a time (default: 16)")
    model.add_argument("--accumulate", type=int, metavar="N", help="such batches in an update (default: 1)")
    model.add_argument(
        "--tokens-per-step", type=int, metavar="N", help="tokens of an update, however many batches that takes"
    )


def run(args: argparse.Namespace) -> int:
    """Train, and print the result."""
    from gpt2spec.training.loop import train
    from gpt2spec.training.saved import how_to_resume

    if args.auto_resume and args.out is not None and (args.out / "config.toml").exists():
        args.resume = -1
    settings, out = settings_of(args)
    outcome = train(
        settings,
        out,
        resume=args.resume is not None,
        at=None if args.resume in (None, -1) else args.resume,
        quiet=args.quiet,
        profile=args.profile,
    )
    if not outcome.finished:
        if outcome.first:
            print(f"\nInterrupted; step {outcome.step} is saved. Continue with: {how_to_resume(out)}", file=sys.stderr)
        return 128 + (outcome.signal or signal.SIGINT)
    if not outcome.first:
        return 0
    show_outcome(outcome, out)
    return 0


def settings_of(args: argparse.Namespace) -> tuple["RunSettings", Path]:
    """The run's settings, from the run itself, the TOML file and the options, the last winning; and its directory."""
    from gpt2spec.errors import ConfigError
    from gpt2spec.training.settings import settings_from

    values, source = values_of(args), str(args.config or "the command line")
    if args.resume is None:
        settings = settings_from(values, source)
        model = Path(settings.init_from).stem if settings.init_from else settings.preset
        return settings, args.out or Path("runs") / f"{model}-{time.strftime('%Y%m%d-%H%M%S')}"
    if args.out is None:
        raise ConfigError("--resume needs --out DIR, the directory of the run")
    return resumed_settings(args.out, values, source), args.out


def values_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the TOML file and the options give, the options winning; paths are absolute."""
    from gpt2spec.errors import ConfigError
    from gpt2spec.training.settings import RunSettings, read_toml

    args.data = args.data[0] if len(args.data) == 1 else args.data or None
    names = [field.name for field in dataclasses.fields(RunSettings)]
    given = {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
    if {"preset", "init_from"} <= given.keys():
        raise ConfigError("--init-from brings its own model: leave out --preset")
    file = read_toml(args.config) if args.config else {}
    values = merge(merge(apart(file, given), given), assignments(args.set))
    if "data" in values:
        values["data"] = absolute(values["data"])
    if isinstance(tasks := values.get("tasks"), dict):
        values["tasks"] = {name: path and absolute(path) for name, path in tasks.items()}
    paths = {"init_from": Path.exists, "tokenizer": Path.is_dir}  # others are names
    for name, is_path in paths.items():  # a run may be resumed from another folder
        if isinstance(values.get(name), str) and is_path(Path(values[name])):
            values[name] = str(Path(values[name]).resolve())
    return values


def resumed_settings(run: Path, values: dict[str, Any], source: str) -> "RunSettings":
    """The settings of the run in a folder, with the `values` that change; a `ConfigError` where one must not."""
    from gpt2spec.errors import ConfigError
    from gpt2spec.training.run_directory import open_run
    from gpt2spec.training.settings import settings_from

    before, _ = open_run(run)
    after = settings_from(merge(apart(dataclasses.asdict(before), values), values), source)
    for name in (field.name for field in dataclasses.fields(after)):
        if name not in CHANGEABLE and getattr(after, name) != getattr(before, name):
            raise ConfigError(f"a resumed run cannot change {name}; it was {getattr(before, name)!r} in {run}")
    windows = before.windows_per_step()
    if after.windows_per_step() != windows:
        raise ConfigError(
            f"a resumed run cannot change how many windows an update has: {windows} in {run}, "
            f"not {after.windows_per_step()}"
        )
    return after


def apart(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """The settings `below` without those that belong to a choice that `above` makes differently."""
    changed = [name for name in DECIDED_BY if name in above and below.get(name, above[name]) != above[name]]
    gone = {name for choice in changed for name in DECIDED_BY[choice]}
    return {name: value for name, value in below.items() if name not in gone}


def absolute(data: Any) -> Any:
    """Make the paths of data absolute: a run may be resumed from another folder."""
    from gpt2spec.data.mixed_dataset import path_and_weight

    if isinstance(data, str):
        return str(Path(data).resolve())
    if not isinstance(data, list) or not all(isinstance(each, str) for each in data):
        return data  # refused later
    weighted = [path_and_weight(each) for each in data]
    return [str(path.resolve()) + ("" if weight is None else f":{weight:g}") for path, weight in weighted]


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Merge two tables, and tables in them, into one; `above` wins."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def assignments(texts: list[str]) -> dict[str, Any]:
    """The table that `KEY=VALUE` texts describe; a value is TOML, or else a bare word."""
    import tomllib

    from gpt2spec.errors import ConfigError

    table: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set takes KEY=VALUE, not {text!r}")
        try:
            word = value.isidentifier() and value not in ("true", "false")
            table = merge(table, tomllib.loads(f"{key} = {value!r}" if word else f"{key} = {value}"))
        except tomllib.TOMLDecodeError:
            raise ConfigError(f"--set {text}: the value is neither TOML nor a word, or the key is no name") from None
    return table


def show_outcome(outcome: "Outcome", out: Path) -> None:
    """Print the sample, the yardstick, and what to do next."""
    from gpt2spec.tokenizer import text_of

    if outcome.sample is not None and outcome.tokenizer is not None:
        prompt, continuation = (text_of(outcome.tokenizer, tokens) for tokens in outcome.sample)
        print(f"\nA sample, after {prompt!r}:\n{continuation}\n")
    if outcome.val_loss is not None:
        entropy = outcome.dataset.unigram_entropy
        print(f"Validation loss {outcome.val_loss:.4f} nats per token, after {outcome.step} steps.")
        if outcome.stopped_early:
            print(f"That was the end of its patience: the lowest was at step {outcome.best}.")
        print(f"Guessing by frequency alone gives {entropy:.4f} (unigram entropy of {outcome.dataset.name}).")
    else:
        print(f"The run had done its {outcome.step} steps already; give it more with --steps.")
    print(f"The run is in {out}. Use it: gpt2spec generate --checkpoint {shlex.quote(str(out))} --prompt 'The'")
