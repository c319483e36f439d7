"""Pictures of a probe: what each encoder said of a few test views, and every run as a dot."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from spatialboost.probes.result import Panel, ProbeResult

CELL = 2.1  # side of one small picture in inches


def draw(result: ProbeResult) -> Figure:
    """The picture of a probe; made without pyplot, so that no window and no global state are touched.

    Raises:
        ModuleNotFoundError: matplotlib is missing.
    """
    from matplotlib.figure import Figure

    num_rows, num_columns = len(result.panels), 2 + 2 * len(result.panels[0].predictions) if result.panels else 3
    aspect = max((panel.image_HW3.shape[0] / panel.image_HW3.shape[1] for panel in result.panels), default=0.0)
    panels_height = num_rows * (CELL * aspect + 0.25)  # and their titles
    figure = Figure(figsize=(CELL * num_columns, panels_height + 3.4), layout="constrained")
    figure.suptitle(f"{result.probe} probe", x=0.01, ha="left", fontsize=10)
    told = textwrap.fill(result.caption(), width=int(CELL * num_columns * 20))  # characters of this size to the inch
    figure.supxlabel(told, x=0.01, ha="left", fontsize=6)
    if not result.panels:
        draw_runs(figure, result)
        return figure
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=[panels_height, 3.0])[:, 0]
    axes = top.subplots(num_rows, num_columns, squeeze=False)
    for row, panel in zip(axes, result.panels, strict=True):
        draw_panel(row, panel)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    draw_runs(bottom, result)
    return figure


def draw_panel(axes: Any, panel: Panel) -> None:
    """One test view from left to right: image, truth, predictions, errors."""
    nearest, farthest = np.nanmin(panel.truth_HW), np.nanmax(panel.truth_HW)
    errors = {name: np.abs(guess - panel.truth_HW) for name, guess in panel.predictions.items()}
    worst = max(float(np.nanpercentile(error, 98)) for error in errors.values())
    axes[0].imshow(panel.image_HW3)
    axes[0].set_title(panel.title, fontsize=7)
    shown = axes[1].imshow(panel.truth_HW, cmap="turbo", vmin=nearest, vmax=farthest)
    axes[1].set_title("depth [m]", fontsize=7)
    axes[1].figure.colorbar(shown, ax=axes[1], fraction=0.04).ax.tick_params(labelsize=6)
    for axis, (name, guess) in zip(axes[2:], panel.predictions.items(), strict=False):
        axis.imshow(guess, cmap="turbo", vmin=nearest, vmax=farthest)
        axis.set_title(name, fontsize=7)
    for axis, (name, error) in zip(axes[2 + len(errors) :], errors.items(), strict=True):
        shown = axis.imshow(error, cmap="magma", vmin=0, vmax=worst)
        axis.set_title(f"error of {name} [m]", fontsize=7)
    axes[-1].figure.colorbar(shown, ax=axes[-1], fraction=0.04).ax.tick_params(labelsize=6)


def draw_runs(figure: Any, result: ProbeResult) -> None:
    """A plot for each metric: every run as a dot, runs of one seed joined, the mean as a bar."""
    axes = figure.subplots(1, len(result.metrics), squeeze=False)[0]
    for axis, (key, metric) in zip(axes, result.metrics.items(), strict=True):
        names = result.names
        means = [result.spread(name, key).mean for name in names]
        axis.bar(range(len(names)), means, color="#c9d7e8", width=0.6)
        for seed in dict.fromkeys(row.seed for row in result.rows):
            run = [(names.index(row.name), row.metrics[key]) for row in result.rows if row.seed == seed]
            style = "o-" if seed is not None else "D"
            axis.plot(*zip(*run, strict=True), style, color="#234", markersize=4, linewidth=0.8)
        axis.set_xticks(range(len(names)), names, fontsize=7)
        axis.set_ylim(*_limits([row.metrics[key] for row in result.rows]))
        unit = f" [{metric.unit}]" if metric.unit else ""
        axis.set_title(
            f"{metric.label}{unit}, {'higher' if metric.higher_is_better else 'lower'} is better", fontsize=8
        )
        axis.tick_params(axis="y", labelsize=7)


def _limits(values: list[float]) -> tuple[float, float]:
    """From zero, so that the bars do not lie."""
    return (0.0, max(values) * 1.08) if max(values) > 0 else (0.0, 1.0)
