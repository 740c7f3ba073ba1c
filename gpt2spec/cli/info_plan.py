"""`gpt2spec info --devices N` estimates training on several devices: memory on each, bytes sent, time."""

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from gpt2spec.cli.units import format_count, format_duration, format_size

if TYPE_CHECKING:
    from gpt2spec.config import GPT2Config

TOKENS_PER_PARAMETER = 20
"""The number of tokens that makes the best use of a given amount of computation (Hoffmann et al. 2022)."""


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a plan, which is made only with --devices."""
    plan = parser.add_argument_group("a plan of training on several devices; --batch-size is the batch of all of them")
    plan.add_argument("--devices", type=int, metavar="N", help="number of devices")
    plan.add_argument("--parallel", metavar="KIND", default="data", help="data (default), sharded or tensor")
    plan.add_argument("--dtype", default="float32", help="dtype to compute in (default: float32)")
    plan.add_argument(
        "--device-flops", type=float, metavar="F", default=1e12, help="a device's most operations a second (1e12)"
    )
    plan.add_argument(
        "--bandwidth", type=float, metavar="B", default=1e10, help="bytes a second that a device sends (1e10)"
    )
    plan.add_argument(
        "--utilization", type=float, metavar="U", default=0.4, help="share of --device-flops that is reached (0.4)"
    )
    plan.add_argument(
        "--tokens", type=float, metavar="T", help="tokens of the whole training (default: 20 a parameter)"
    )


def describe_plan(args: argparse.Namespace, config: "GPT2Config", context: int) -> dict[str, Any]:
    """All figures for JSON, in bytes and seconds."""
    from gpt2spec.costs import parameter_counts
    from gpt2spec.planning import Cluster, plan

    cluster = Cluster(args.devices, args.parallel, args.device_flops, args.bandwidth, args.utilization)
    made = plan(config, cluster, args.dtype, args.batch_size, context)
    tokens = TOKENS_PER_PARAMETER * parameter_counts(config).total if args.tokens is None else args.tokens
    seconds = made.training_seconds(tokens, args.batch_size * context)
    figures = {**dataclasses.asdict(made), "memory": made.memory, "tokens": tokens, "training_seconds": seconds}
    return {"cluster": {**dataclasses.asdict(cluster), "dtype": args.dtype}, **figures}


def plan_text(described: dict[str, Any]) -> str:
    """All figures as text."""
    from gpt2spec.cli.table import format_table

    cluster = described["cluster"]
    memory = {
        "state": "  weights and AdamW state",
        "gradients": "  gradients",
        "working_weights": "  weights cast or gathered",
        "activations": "  activations",
    }
    rows = [
        (f"ON EACH OF {cluster['devices']} DEVICES, {cluster['parallel'].upper()}, {cluster['dtype'].upper()}", ""),
        ("memory", format_size(described["memory"])),
        *((label, format_size(described[key])) for key, label in memory.items()),
        ("sent in a step", format_size(described["sent"])),
        ("a step computes for", format_duration(described["compute_seconds"])),
        ("a step sends for", format_duration(described["send_seconds"])),
        ("a step", format_duration(described["step_seconds"])),
        (f"{format_count(described['tokens'])} tokens", format_duration(described["training_seconds"])),
    ]
    note = (
        "A plan, not a measurement: frameworks need memory of their own, and steps wait for more than is counted here. "
        "Sending overlaps with computing, but for tensor parallelism."
    )
    return f"{format_table(rows, right=(1,))}\n\n{note}"
