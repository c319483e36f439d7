"""Curves and bars of a run as numbers for the SVG of its page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 184, 130  # of the part inside the axes, in units of the SVG
COLOURS = ("#2f6fb5", "#d06a1f", "#2e8b57", "#8a4fa3", "#5c6675")
MOST_POINTS = 400  # of a curve; more are thinned out, evenly

Series = Mapping[str, Sequence[tuple[float, float]]]


def line_chart(title: str, series: Series, *, log: bool = False, line: float | None = None) -> dict[str, Any] | None:
    """A chart of curves, for the template; None if there is nothing to draw.

    Example:
        >>> chart = line_chart("loss", {"loss": [(1, 2.0), (2, 1.0)]})
        >>> chart["curves"][0]["points"], [label for _, label in chart["x_ticks"]]
        ('0.0,5.9 184.0,124.1', ['1', '2'])

    Args:
        title: Text above the chart.
        series: Name of each curve -> its points (x, y). Points that are not finite are left out.
        log: Logarithmic y axis, if all values are above zero.
        line: A value at which a dashed line is drawn.
    """
    curves = {name: _thinned([p for p in points if all(map(math.isfinite, p))]) for name, points in series.items()}
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return None
    xs = [x for points in curves.values() for x, _ in points]
    ys = [y for points in curves.values() for _, y in points] + ([] if line is None else [line])
    log = log and min(ys) > 0
    scale = math.log10 if log else float
    low, high = _padded(min(map(scale, ys)), max(map(scale, ys)))
    left, right = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1

    def place(x: float, y: float) -> tuple[float, float]:
        return WIDTH * (x - left) / (right - left), HEIGHT * (1 - (scale(y) - low) / (high - low))

    y_values = [10**value if log else value for value in (low, (low + high) / 2, high)]
    return {
        "title": title,
        "width": WIDTH,
        "height": HEIGHT,
        "curves": [
            {
                "name": name,
                "colour": COLOURS[i % len(COLOURS)],
                "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*p) for p in points)),
                "dots": [place(*p) for p in points] if len(points) < 3 else [],
                "last": _number(points[-1][1], min(y_values[2] - y_values[0], abs(points[-1][1]))),
            }
            for i, (name, points) in enumerate(curves.items())
        ],
        "line": None if line is None else place(left, line)[1],
        "x_ticks": [(place(x, y_values[0])[0], _number(x)) for x in dict.fromkeys((left, max(xs)))],
        "y_ticks": [(place(left, y)[1], _number(y, y_values[2] - y_values[0])) for y in y_values],
    }


def gate_chart(gates: Sequence[Mapping[str, float]]) -> dict[str, Any] | None:
    """The share of Attn+ in each layer: a dot for the mean, a line from the smallest to the largest channel."""
    if not gates:
        return None
    shares = [(g["layer"], 1 - g["mean"], 1 - g["max"], 1 - g["min"]) for g in gates]
    low, high = _padded(min(0.5, *(s[2] for s in shares)), max(0.5, *(s[3] for s in shares)))
    step = max(18.0, min(48.0, 640 / len(shares)))

    def height(value: float) -> float:
        return HEIGHT * (1 - (value - low) / (high - low))

    return {
        "width": step * len(shares),
        "height": HEIGHT,
        "line": height(0.5),
        "layers": [
            {"layer": layer, "x": step * (i + 0.5), "mean": height(m), "low": height(a), "high": height(b), "share": m}
            for i, (layer, m, a, b) in enumerate(shares)
        ],
        "y_ticks": [(height(y), _number(y, high - low)) for y in (low, (low + high) / 2, high)],
    }


def stage_charts(history: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """The charts of one stage from the entries of its log."""

    def points(key: str) -> list[tuple[float, float]]:
        return [(entry["step"], entry[key]) for entry in history if key in entry]

    ranges = dict.fromkeys(key for entry in history for key in entry if key.startswith("attn_plus_layers_"))
    named = {f"layers {key.removeprefix('attn_plus_layers_').replace('_', '-')}": points(key) for key in ranges}
    speeds = {
        key.removesuffix("_per_second").removesuffix("_tokens"): points(key)
        for key in ("visual_tokens_per_second", "text_tokens_per_second", "images_per_second")
    }
    charts = [
        line_chart("loss", {"loss": points("loss")}, log=True),
        line_chart("learning rate", {"learning rate": points("learning_rate")}),
        line_chart("share of Attn+ (0.5 at the start)", named, line=0.5) if named else None,
        line_chart("images per second" if speeds.get("images") else "tokens per second", speeds),
    ]
    return [chart for chart in charts if chart is not None]


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    if len(points) <= MOST_POINTS:
        return points
    return [points[round(i * (len(points) - 1) / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]


def _padded(low: float, high: float) -> tuple[float, float]:
    """The ends of an axis, with some space; never both the same."""
    if high - low < 1e-12 + 1e-9 * abs(high):
        return low - max(abs(low) * 0.1, 1e-6), high + max(abs(high) * 0.1, 1e-6)
    below = low - 0.05 * (high - low)
    return 0.0 if below < 0 <= low else below, high + 0.05 * (high - low)


def _number(value: float, span: float | None = None) -> str:
    """A number with as many digits as a difference of a hundredth of the axis needs."""
    if span is None or span <= 0:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = max(0, 1 - math.floor(math.log10(span)))
    return f"{value:.{digits}f}" if abs(value) >= 0.01 and digits <= 6 else f"{value:.2g}"
