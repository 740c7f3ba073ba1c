"""This module draws loss curves and scores in tasks as a picture. It needs the `plot` extra."""

from itertools import accumulate
from pathlib import Path
from typing import Any

from gpt2spec.errors import CheckpointError, ConfigError
from gpt2spec.files import atomic_write
from gpt2spec.training.run_directory import open_run, read_metrics, read_scores

FORMATS = ("png", "svg", "pdf")
WIDTH, HEIGHT, SCORE_HEIGHT = 8.0, 5.0, 2.5
"""Inches: the picture's width, the height of the losses, and that of a row of two scores below them."""

WIDE = 10
"""Scores that differ by at least this factor are drawn on a logarithmic axis."""


def plot_runs(runs: list[Path], out: Path) -> None:
    """Draw training loss, validation loss and the data's unigram entropy over the steps, all runs in one picture.

    Below them stand the scores that the runs have in tasks, each with its standard errors.

    `out` ends in .png, .svg or .pdf. Raises `ConfigError` where it does not or matplotlib is absent, and
    `CheckpointError` for a folder that holds no run.
    """
    kind = out.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise ConfigError(f"a plot is a {', '.join('.' + each for each in FORMATS)} file, not {str(out)!r}")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError('plots need matplotlib: pip install "gpt2spec[plot]"') from error

    scores = scores_of(runs)
    rows = -(-len(scores) // 2)
    figure = Figure(figsize=(WIDTH, HEIGHT + SCORE_HEIGHT * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1 + rows, 2, height_ratios=[HEIGHT, *[SCORE_HEIGHT] * rows])
    axes = figure.add_subplot(grid[0, :])
    entropies: dict[float, str] = {}
    for i, run in enumerate(runs):
        _, data = open_run(run)
        entropies[data["unigram_entropy"]] = data["name"]
        draw_run(axes, read_metrics(run), run.resolve().name, f"C{i}")
    for i, (entropy, name) in enumerate(entropies.items()):
        axes.axhline(entropy, color="0.5", linestyle=(":", "-.", "--")[i % 3], label=f"unigram entropy of {name}")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    for i, (title, curves) in enumerate(scores.items()):
        draw_scores(figure.add_subplot(grid[1 + i // 2, i % 2]), title, curves)
    with atomic_write(out) as file:
        figure.savefig(file, format=kind, dpi=120)


def draw_run(axes: Any, metrics: list[dict[str, Any]], name: str, color: str) -> None:
    """Draw one run: its training loss thin and smoothed, its validation loss as points joined by lines."""
    metrics = [line for line in metrics if line["loss"] is not None]
    if not metrics:
        raise CheckpointError(f"the run {name} has no steps yet")
    steps = [line["step"] for line in metrics]
    losses = [line["loss"] for line in metrics]
    axes.plot(steps, losses, color=color, alpha=0.2, linewidth=0.8)
    axes.plot(steps, smoothed(losses), color=color, linewidth=1.2, label=f"{name}: training")
    validated = [line for line in metrics if "val_loss" in line]
    if validated:
        axes.plot(
            [line["step"] for line in validated],
            [line["val_loss"] for line in validated],
            color=color,
            marker="o",
            linestyle="--",
            label=f"{name}: validation",
        )


Curve = list[tuple[int, float, float]]
"""Steps, scores, and their standard errors."""


def scores_of(runs: list[Path]) -> dict[str, dict[int, Curve]]:
    """Collect the curve of every score that is a number: by its title, and then by the run's place in `runs`."""
    found: dict[str, dict[int, Curve]] = {}
    for i, run in enumerate(runs):
        for record in read_scores(run):
            for score in record["scores"]:
                if score["value"] is not None:
                    curve = found.setdefault(f"{record['task']}: {score['name']}", {}).setdefault(i, [])
                    curve.append((record["step"], score["value"], score["stderr"] or 0.0))
    return found


def draw_scores(axes: Any, title: str, curves: dict[int, Curve]) -> None:
    """Draw one score of all runs that have it, in their colours."""
    for i, curve in curves.items():
        steps, scores, errors = zip(*curve, strict=True)
        axes.errorbar(steps, scores, yerr=errors, color=f"C{i}", marker="o", markersize=4, capsize=2)
    values = [value for curve in curves.values() for _, value, _ in curve]
    if min(values) > 0 and max(values) > WIDE * min(values):  # as perplexities at first
        axes.set_yscale("log")
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)


def smoothed(values: list[float]) -> list[float]:
    """Smooth a curve: each value is the mean of those within a hundredth of the run, on both sides."""
    reach = len(values) // 100
    sums = [0.0, *accumulate(values)]
    spans = [(max(0, i - reach), min(len(values), i + reach + 1)) for i in range(len(values))]
    return [(sums[last] - sums[first]) / (last - first) for first, last in spans]
