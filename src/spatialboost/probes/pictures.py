"""The figure of a probe: a row of pictures for each test item that is shown, and every run as a dot."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from spatialboost.probes.measures import Metric, ProbeRow, Spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = 2.1  # width of one small picture in inches
LOWEST = 0.6  # height of a picture in cells
NARROWEST = 3  # pictures, so that the plots of the metrics have room


class Panel(Protocol):
    """A row of pictures: one test item with the predictions of each encoder. The panel draws itself."""

    @property
    def num_pictures(self) -> int:
        """Number of pictures in the row."""

    @property
    def aspect(self) -> float:
        """Height of a picture over its width."""

    def draw(self, axes: Sequence[Any]) -> None:
        """Draw onto matplotlib axes, one for each picture."""


def draw_figure(
    title: str, caption: str, panels: Sequence[Panel], metrics: Mapping[str, Metric], rows: Sequence[ProbeRow]
) -> Figure:
    """The figure of a probe; made without pyplot, so that no window opens and no global state changes.

    Args:
        title: text above the figure.
        caption: text below the figure, in small print.
        panels: rows of pictures; may be empty.
        metrics: name, unit and direction of each metric.
        rows: all runs.

    Raises:
        ModuleNotFoundError: matplotlib is missing.
    """
    from matplotlib.figure import Figure

    num_columns = max((panel.num_pictures for panel in panels), default=1)
    # pictures that are much wider than high, such as two views beside each other, get more room
    cell = CELL * max(1.0, *(LOWEST / panel.aspect for panel in panels)) if panels else CELL
    heights = [cell * panel.aspect + 0.4 for panel in panels]  # with their titles
    width = max(cell * num_columns, CELL * max(NARROWEST, len(metrics)))
    figure = Figure(figsize=(width, sum(heights) + 3.4), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    legend = "Pictures show the predictions of the first runs. " if panels else ""
    legend += "Bars are means, dots are runs" + ("." if {row.seed for row in rows} == {None} else ", joined by seed.")
    lines = textwrap.fill(f"{legend} {caption}", width=int(width * 20))  # characters to the inch
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=6, parse_math=False)  # a path may contain $
    if not panels:
        draw_runs(figure, metrics, rows)
        return figure
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=[sum(heights), 3.0])[:, 0]
    axes = top.subplots(len(panels), num_columns, squeeze=False, height_ratios=heights)
    draw_panels(axes, panels)
    draw_runs(bottom, metrics, rows)
    return figure


def draw_panels(axes: Any, panels: Sequence[Panel]) -> None:
    """Draw each panel into its row of axes; the axes that it does not need stay empty."""
    for row, panel in zip(axes, panels, strict=True):
        panel.draw(row[: panel.num_pictures])
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
        for axis in row[panel.num_pictures :]:
            axis.set_axis_off()


def draw_runs(figure: Any, metrics: Mapping[str, Metric], rows: Sequence[ProbeRow]) -> None:
    """A plot for each metric: every run as a dot, runs of one seed joined, the mean as a bar."""
    names = list(dict.fromkeys(row.name for row in rows))
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axis, (key, metric) in zip(axes, metrics.items(), strict=True):
        means = [Spread.of([row.metrics[key] for row in rows if row.name == name]).mean for name in names]
        axis.bar(range(len(names)), means, color="#c9d7e8", width=0.6)
        for seed in dict.fromkeys(row.seed for row in rows):
            run = [(names.index(row.name), row.metrics[key]) for row in rows if row.seed == seed]
            style = "o-" if seed is not None else "D"
            axis.plot(*zip(*run, strict=True), style, color="#234", markersize=4, linewidth=0.8)
        axis.set_xticks(range(len(names)), names, fontsize=7)
        axis.set_ylim(*_limits([row.metrics[key] for row in rows]))
        better = "higher" if metric.higher_is_better else "lower"
        axis.set_title(f"{metric.title}\n{better} is better", fontsize=8)
        axis.tick_params(axis="y", labelsize=7)


def _limits(values: list[float]) -> tuple[float, float]:
    """The limits of the axis; it starts at zero, so that bars show true ratios."""
    return (0.0, max(values) * 1.08) if max(values) > 0 else (0.0, 1.0)
