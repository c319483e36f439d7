"""The picture of what boosting has changed: some test items of a probe, by the base and by the boosted encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from spatialboost.probes.pictures import CELL, LOWEST, Panel, draw_panels
from spatialboost.probes.result import ProbeResult

SHOWN = ("base", "boosted")


def draw_changes(result: ProbeResult, file: Path, shown: Sequence[str] = SHOWN) -> Path | None:
    """Draw the test items of a probe that are shown, by some of the encoders; None if the probe has no pictures.

    The items are those of the probe's own figure: evenly spaced over the test split, not chosen by their result.
    """
    from matplotlib.figure import Figure

    panels = [_only(panel, shown) for panel in result.panels]
    if not panels:
        return None
    columns = max(panel.num_pictures for panel in panels)
    cell = CELL * max(1.0, *(LOWEST / panel.aspect for panel in panels))
    heights = [cell * panel.aspect + 0.4 for panel in panels]
    figure = Figure(figsize=(cell * columns, sum(heights)), layout="constrained")
    axes = figure.subplots(len(panels), columns, squeeze=False, height_ratios=heights)
    draw_panels(axes, panels)
    figure.savefig(file, dpi=140)
    return file


def _only(panel: Panel, names: Sequence[str]) -> Any:
    """The panel with these encoders: what it maps by the encoders' names is cut down to them."""
    if not is_dataclass(panel):
        return panel
    values = {each.name: getattr(panel, each.name) for each in fields(panel)}
    cut = {
        key: {name: value[name] for name in names}
        for key, value in values.items()
        if isinstance(value, Mapping) and all(name in value for name in names)
    }
    return replace(panel, **cut)  # type: ignore[type-var]
