"""`gpt2spec info` shows the weights of a GPT-2 and computes, without measuring, what it costs to train and run."""

import argparse
import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gpt2spec.cli.checkpoint_arguments import add_checkpoint_arguments, opened
from gpt2spec.cli.info_plan import add_plan_arguments, describe_plan, plan_text
from gpt2spec.cli.units import format_count, format_size

if TYPE_CHECKING:
    from gpt2spec.config import GPT2Config
    from gpt2spec.parameters import Weight

NAME = "info"
HELP = "show a model's weights, parameter counts, arithmetic and memory"
DTYPES = ("float32", "bfloat16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("preset", nargs="?", help="a named size, such as gpt2 or 124M; without one, list them all")
    add_checkpoint_arguments(parser)
    parser.add_argument("--hashes", action="store_true", help="with --checkpoint, the SHA-256 of every weight")
    parser.add_argument("--context", type=int, help="positions of a sequence (default: as many as the model has)")
    parser.add_argument("--batch-size", type=int, default=1, help="sequences of a step (default: 1)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_plan_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print one model, or a table of all presets."""
    from gpt2spec.config import PRESETS, preset
    from gpt2spec.errors import ConfigError

    if (args.hashes or args.step is not None) and args.checkpoint is None:
        raise ConfigError(f"{'--hashes' if args.hashes else '--step'} needs --checkpoint PATH")
    if args.preset is not None and args.checkpoint is not None:
        raise ConfigError("info shows a preset or --checkpoint PATH, not both")
    if args.checkpoint is not None:
        return show_checkpoint(args)
    if args.preset is None:
        described = {name: {"config": dataclasses.asdict(config)} for name, config in PRESETS.items()}
        print(json.dumps(described, indent=2) if args.json else presets_text())
        return 0
    config = preset(args.preset)
    description = describe(config, args.context, args.batch_size)
    if args.devices is not None:
        description["plan"] = describe_plan(args, config, description["context"])
    print(json.dumps(description, indent=2) if args.json else model_text(args.preset, config, description))
    if args.devices is not None and not args.json:
        print("\n" + plan_text(description["plan"]))
    return 0


def show_checkpoint(args: argparse.Namespace) -> int:
    """Print the model of a checkpoint and, if requested, the hashes of its weights."""
    from gpt2spec.checkpoints.convert import hashes_of
    from gpt2spec.checkpoints.released import release_note

    reader = opened(args.checkpoint, args.step)
    description = describe(reader.config, args.context, args.batch_size)
    hashes = hashes_of(reader) if args.hashes else {}
    dtypes = sorted({entry.dtype for entry in reader.entries.values()})
    release = release_note(reader.path)
    about = {
        "path": str(reader.path),
        "format": reader.format,
        "dtypes": dtypes,
        "tokenizer": reader.tokenizer,
        "release": release,
    }
    if args.json:
        print(json.dumps({"checkpoint": about, **description, **({"sha256": hashes} if hashes else {})}, indent=2))
        return 0
    print(model_text(str(reader.path), reader.config, description))
    print(f"\n{reader.format}, {' and '.join(dtypes)}, tokenizer {reader.tokenizer or 'not recorded'}")
    if release:
        print(f"This is {release}.")
    if hashes:
        print(f"\n{hashes_text(reader.config, hashes)}")
    return 0


def hashes_text(config: "GPT2Config", hashes: Mapping[str, str]) -> str:
    """A table of weights and the SHA-256 of their values, in the order of the weight table."""
    from gpt2spec.cli.table import format_table
    from gpt2spec.parameters import weight_table

    rows = [(w.name, " x ".join(map(str, w.shape)), hashes[w.name]) for w in weight_table(config)]
    return format_table([("WEIGHT", "SHAPE", "SHA-256 OF ITS VALUES"), *rows])


def describe(config: "GPT2Config", context: int | None, batch_size: int) -> dict[str, Any]:
    """All figures of a model for JSON, with every addition and multiplication counted, and memory in bytes."""
    from gpt2spec import costs
    from gpt2spec.errors import InputError

    context = config.n_ctx if context is None else context

    if batch_size < 1:
        raise InputError(f"a batch has at least 1 sequence, not {batch_size}")
    training = costs.training_flops_per_token(config, context)
    return {
        "config": dataclasses.asdict(config),
        "context": context,
        "batch_size": batch_size,
        "weights": [{"count": count, **weight._asdict()} for weight, count in layers_once(config)],
        "parameters": dataclasses.asdict(costs.parameter_counts(config)),
        "flops": {
            "forward_per_token": costs.forward_flops_per_token(config, context),
            "training_per_token": training,
            "training_per_step": training * context * batch_size,
        },
        "memory": {
            dtype: {**dataclasses.asdict(held), "cache": held.cache_per_token * context * batch_size}
            for dtype, held in ((dtype, costs.memory(config, dtype)) for dtype in DTYPES)
        },
    }


def layers_once(config: "GPT2Config") -> list[tuple["Weight", int]]:
    """The weight table with the layers merged into one, `h.*`: each row with how often it occurs."""
    from gpt2spec.parameters import weight_table

    table = weight_table(config)
    layer = [(w._replace(name=w.name.replace("h.0.", "h.*.")), config.n_layer) for w in table if w.name[:4] == "h.0."]
    rest = [(w, 1) for w in table if not w.name.startswith("h.")]
    embeddings = 2
    return [*rest[:embeddings], *layer, *rest[embeddings:]]


def model_text(name: str, config: "GPT2Config", description: dict[str, Any]) -> str:
    """The figures of one model as text."""
    from gpt2spec.cli.table import format_table

    counts, flops, memory = (description[key] for key in ("parameters", "flops", "memory"))
    context, batch_size = description["context"], description["batch_size"]
    weights = [("WEIGHT", "", "SHAPE", "VALUES", "AT FIRST")]
    for weight, count in layers_once(config):
        times = f"x {count}" if count > 1 else ""
        start = f"N({weight.mean}, {weight.std:.4g})" if weight.std else f"{weight.mean}"
        weights.append((weight.name, times, " x ".join(map(str, weight.shape)), f"{weight.size * count:,}", start))
    parameters = [
        ("parameters", f"{counts['total']:,}"),
        ("  of rank >= 2", f"{counts['matrices']:,}"),
        ("  without embeddings", f"{counts['without_embeddings']:,}"),
    ]
    operations = [
        (f"FLOPS, CONTEXT {context:,}", ""),
        ("a token, forward", format_count(flops["forward_per_token"])),
        ("a token, training", format_count(flops["training_per_token"])),
        (f"a step of {batch_size:,} x {context:,} tokens", format_count(flops["training_per_step"])),
    ]
    held = {
        "weights": "weights",
        "cast_weights": "weights cast to it",
        "gradients": "gradients",
        "adamw": "AdamW state",
        "cache_per_token": "KV cache of a token",
        "cache": f"KV cache of {batch_size:,} x {context:,} tokens",
    }
    amounts: list[tuple[str, ...]] = [("MEMORY, COMPUTING IN", *DTYPES)]
    amounts += [(label, *(format_size(memory[dtype][key]) for dtype in DTYPES)) for key, label in held.items()]
    return "\n\n".join(
        [
            f"{name}: {config.n_layer} layers, width {config.n_embd}, {config.n_head} heads of {config.head_width}, "
            f"{config.n_ctx:,} positions, {config.vocab_size:,} tokens",
            format_table(weights, right=(1, 3)),
            format_table(parameters, right=(1,)),
            format_table(operations, right=(1,)),
            format_table(amounts, right=(1, 2)),
            "Multiplications and additions are counted singly, masked attention in full; activations are left out.",
        ]
    )


def presets_text() -> str:
    """A table of all presets."""
    from gpt2spec.cli.table import format_table
    from gpt2spec.config import ALIASES, PRESETS
    from gpt2spec.parameters import count_parameters

    names = {name: alias for alias, name in ALIASES.items()}
    rows: list[tuple[str, ...]] = [("PRESET", "ALSO", "LAYERS", "WIDTH", "HEADS", "POSITIONS", "PARAMETERS")]
    for name, config in PRESETS.items():
        sizes = (config.n_layer, config.n_embd, config.n_head, config.n_ctx, count_parameters(config))
        rows.append((name, names.get(name, ""), *(f"{size:,}" for size in sizes)))
    return format_table(rows, right=(2, 3, 4, 5, 6))
