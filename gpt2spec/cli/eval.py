"""`gpt2spec eval` scores a model in benchmarks, and shows the protocol of each score and published ones."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2spec.cli.backend_arguments import add_backend_arguments, backend_from
from gpt2spec.cli.checkpoint_arguments import add_checkpoint_arguments, add_tokenizer_argument, opened
from gpt2spec.errors import ConfigError

if TYPE_CHECKING:
    from gpt2spec.tasks.cache import AnswerCache
    from gpt2spec.tasks.evaluate import Model, Result
    from gpt2spec.tasks.task import Task

NAME = "eval"
HELP = "score a trained model in benchmarks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="what to evaluate; --list shows what there is")
    parser.add_argument("--list", action="store_true", help="list the tasks and where to get their data")
    add_checkpoint_arguments(parser)
    add_tokenizer_argument(parser)

    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="PATH",
        help="file or folder in the dataset's own form; TASK=PATH for one of several tasks; repeatable",
    )
    data.add_argument("--limit", type=int, metavar="N", help="only the first N examples")
    data.add_argument(
        "--stride", type=int, metavar="N", help="tokens by which windows over long texts move on (default: the context)"
    )

    output = parser.add_argument_group("output")
    output.add_argument("--json", type=Path, metavar="FILE", help="write everything that is printed to a file")
    output.add_argument("--quiet", action="store_true", help="show no progress")

    computing = parser.add_argument_group("computing")
    computing.add_argument("--batch-size", type=int, default=16, metavar="N", help="texts computed together")
    computing.add_argument(
        "--cache", type=Path, metavar="DIR", help="folder for answers, so that an interrupted evaluation can go on"
    )
    computing.add_argument("--no-cache", action="store_true", help="keep no answers, and use none")
    add_backend_arguments(computing)


def run(args: argparse.Namespace) -> int:
    """Evaluate one task after another. Each result is printed, and written, as soon as it is known."""
    from gpt2spec.cli.eval_output import list_text, result_text, write_report
    from gpt2spec.tasks.registry import load_task, task_listings

    if args.list:
        print(list_text(task_listings()))
        return 0
    if not args.tasks or args.checkpoint is None:
        raise ConfigError("say what to evaluate: gpt2spec eval TASK --checkpoint PATH --data PATH; --list shows tasks")
    tasks = {name: load_task(name) for name in args.tasks}
    paths = data_paths(args.tasks, args.data)
    model, cache, about = prepared(args)
    results: list[Result] = []
    for name, task in tasks.items():
        results.append(evaluated(args, name, task, paths[name], model, cache))
        print(("\n" if len(results) > 1 else "") + result_text(results[-1], about["size"]), flush=True)
        if args.json is not None:
            write_report(args.json, about, results)
    return 0


def data_paths(tasks: Sequence[str], given: Sequence[str]) -> dict[str, Path]:
    """The data of each task: the path given for it, or else the one given for all."""
    for_all = [Path(text) for text in given if text.partition("=")[0] not in tasks]
    if len(for_all) > 1:
        raise ConfigError(f"--data names {len(for_all)} paths for all tasks; say which as in --data {tasks[0]}=PATH")
    own = {task: Path(path) for task, equals, path in (text.partition("=") for text in given) if task in tasks and path}
    missing = [task for task in tasks if task not in own and not for_all]
    if missing:
        raise ConfigError(f"{missing[0]} needs --data PATH; gpt2spec eval --list says where to get its data")
    return {task: own.get(task) or for_all[0] for task in tasks}


def prepared(args: argparse.Namespace) -> tuple["Model", "AnswerCache", dict[str, Any]]:
    """The model, the answers it gave before, and the description of both for the report."""
    from gpt2spec import __version__
    from gpt2spec.checkpoints.tokenizers import tokenizer_of
    from gpt2spec.tasks.cache import AnswerCache, default_folder, fingerprint
    from gpt2spec.tasks.evaluate import Model
    from gpt2spec.tasks.published import size_of

    checkpoint = opened(args.checkpoint, args.step)
    tokenizer, backend = tokenizer_of(checkpoint, args.tokenizer), backend_from(args)
    config, params = checkpoint.config, checkpoint.params()
    model = Model(backend, config, params, tokenizer, args.batch_size, args.stride)
    options = sorted((args.backend_options or {}).items())
    mark = fingerprint(config, params, tokenizer.id, backend.name, backend.device, backend.dtype, options)
    folder = args.cache or default_folder()
    about = {
        "gpt2spec": __version__,
        "checkpoint": str(checkpoint.path),
        "size": size_of(config),
        "model": mark,
        "backend": backend.name,
        "device": backend.device,
        "dtype": backend.dtype,
        "n_ctx": model.reader.n_ctx,
        "stride": model.reader.stride,
        "limit": args.limit,
    }
    return model, AnswerCache(None if args.no_cache else folder / f"{mark}.jsonl"), about


def evaluated(
    args: argparse.Namespace, name: str, task: "Task", data: Path, model: "Model", cache: "AnswerCache"
) -> "Result":
    """The result of one task. Ctrl-C prints what is kept and raises `KeyboardInterrupt`."""
    from gpt2spec.cli.eval_progress import EvalProgress
    from gpt2spec.tasks.evaluate import evaluate

    progress = EvalProgress(args.quiet)
    try:
        return evaluate(task, name, data, model, cache, progress, args.limit)
    except KeyboardInterrupt:
        progress.report_interruption(kept=cache.path is not None)
        raise
    finally:
        progress.close()
