"""A plot of error by layer, as SVG for a page."""

import html
import math
import re
from collections.abc import Sequence

from gpt2spec_conformance.findings import CaseReport

TAP = re.compile(r"h\.(\d+)\.(attn|mlp|residual)")
COLOURS = {"attn": "#0072b2", "mlp": "#d55e00", "residual": "#333333"}
WIDTH, HEIGHT = 420, 170
LEFT, RIGHT, TOP, BOTTOM = 50, 80, 12, 28
"""Margins in pixels."""


def error_by_layer(case: CaseReport) -> str:
    """An SVG with a line for each tap and a dashed one for the budget; empty for a case that is not of taps.

    The axis is logarithmic; errors of zero stand at its lower end and infinite ones at its upper end.
    """
    series = _series(case)
    if not series or not case.budget:
        return ""
    errors = [error for points in series.values() for _, error in points]
    finite = [error for error in errors if 0 < error < math.inf]
    low = math.floor(math.log10(min([*finite, case.budget])))
    high = math.ceil(math.log10(max([*finite, case.budget]))) + (math.inf in errors)
    layers = 1 + max(layer for points in series.values() for layer, _ in points)

    def x(layer: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (layer + 0.5) / layers

    def y(error: float) -> float:
        decade = high if error == math.inf else math.log10(error) if error > 0 else low
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (max(decade, low) - low) / max(high - low, 1)

    drawn = [_axis_label(10.0**decade, y(10.0**decade)) for decade in {low, high}]
    drawn += [_text(x(layer), HEIGHT - BOTTOM + 14, str(layer), "middle") for layer in _ticks(layers)]
    drawn.append(_line([(LEFT, y(case.budget)), (WIDTH - RIGHT, y(case.budget))], "#777777", dashed=True))
    drawn.append(_text(WIDTH - RIGHT + 4, y(case.budget) + 4, "budget"))
    for row, (tap, points) in enumerate(series.items()):
        drawn.append(_line([(x(layer), y(error)) for layer, error in points], COLOURS[tap]))
        drawn.append(_text(WIDTH - RIGHT + 14, HEIGHT - BOTTOM - 14 * (2 - row), tap, colour=COLOURS[tap]))
    drawn.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 2, "block", "middle"))
    drawn.append(_text(LEFT, TOP, "epsilons"))
    title = html.escape(f"Error of {case.id} by block, in epsilons")
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{title}">'
        f"<title>{title}</title>{''.join(drawn)}</svg>"
    )


def _series(case: CaseReport) -> dict[str, list[tuple[int, float]]]:
    """The pairs (layer, error) of each tap, from the first layer up."""
    found: dict[str, list[tuple[int, float]]] = {}
    for tensor in case.tensors:
        if match := TAP.fullmatch(tensor.name):
            found.setdefault(match[2], []).append((int(match[1]), tensor.error))
    return {tap: sorted(found[tap]) for tap in COLOURS if tap in found}


def _ticks(layers: int) -> range:
    return range(0, layers, max(1, math.ceil(layers / 12)))


def _axis_label(value: float, y: float) -> str:
    return _text(LEFT - 6, y + 4, f"{value:.0e}" if not 0.01 <= value <= 1e4 else f"{value:g}", "end")


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = "#333333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="11">{text}</text>'


def _line(points: Sequence[tuple[float, float]], colour: str, dashed: bool = False) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "" if dashed else "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points)
    style = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}"{style}/>{dots}'
