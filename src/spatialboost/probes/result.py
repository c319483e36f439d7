"""The result of a probe: all runs with mean and spread, as JSON, as a table and as a picture."""

from __future__ import annotations

import io
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.paired import PairedTest, paired_test
from spatialboost.probes.measures import Metric, ProbeRow, Spread
from spatialboost.probes.pictures import Panel, draw_figure
from spatialboost.weights.results import read_result

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Group
    from rich.table import Table


@dataclass(frozen=True)
class ProbeResult:
    """All runs of one probe, and all settings that are needed to repeat it.

    Example:
        >>> from spatialboost.probes.result import Metric, ProbeResult, ProbeRow
        >>> rows = [ProbeRow("base", 0, {"rmse": 0.5}), ProbeRow("boosted", 0, {"rmse": 0.4})]
        >>> result = ProbeResult("depth", {"layer": -1}, {"rmse": Metric("RMSE", "m")}, rows)
        >>> print(result.gain("rmse"))
        -0.100

    Attributes:
        probe: ``"depth"``, ``"knn"``, ...
        settings: layer, norm, resolution, upsampling, seeds, splits and the like; JSON-able.
        metrics: name, unit and direction of each metric, in the order of the table.
        rows: one row for each encoder and seed.
        panels: test items for the picture; not part of the JSON.
    """

    probe: str
    settings: Mapping[str, Any]
    metrics: Mapping[str, Metric]
    rows: Sequence[ProbeRow]
    panels: Sequence[Panel] = ()

    @classmethod
    def read(cls, file: str | Path) -> ProbeResult:
        """The result in a file that `save` wrote, without its panels.

        Raises:
            SpatialBoostError: it cannot be read, or is not the result of a probe.
        """
        content = read_result(Path(file))
        rows = [
            ProbeRow(row["name"], row["seed"], row["metrics"], row["chosen"], row["per_view"])
            for row in content["rows"]
        ]
        metrics = {key: Metric(**metric) for key, metric in content["metrics"].items()}
        return cls(content["probe"], content["settings"], metrics, rows)

    @property
    def names(self) -> list[str]:
        """Names of the encoders and the baseline, in order."""
        return list(dict.fromkeys(row.name for row in self.rows))

    def values(self, name: str, metric: str) -> list[float]:
        """The values of a metric in all runs of ``name``, in the order of the seeds.

        Raises:
            SpatialBoostError: nothing of that name was measured.
        """
        found = [row.metrics[metric] for row in self.rows if row.name == name and metric in row.metrics]
        if not found:
            raise SpatialBoostError(
                f"no {metric!r} of {name!r} in this {self.probe} probe; measured were {self.names} "
                f"with {list(self.metrics)}"
            )
        return found

    def spread(self, name: str, metric: str) -> Spread:
        """Mean and standard deviation over the seeds."""
        return Spread.of(self.values(name, metric))

    def gain(self, metric: str, name: str = "boosted", over: str = "base") -> Spread:
        """``name`` minus ``over``, seed by seed; if a lower metric is better, a negative gain is better."""
        ours, theirs = self.values(name, metric), self.values(over, metric)
        if len(ours) != len(theirs):
            raise SpatialBoostError(f"{name!r} has {len(ours)} runs and {over!r} {len(theirs)}: not the same seeds")
        return Spread.of([a - b for a, b in zip(ours, theirs, strict=True)])

    def paired(self, name: str = "boosted", over: str = "base") -> PairedTest:
        """Compare the first metric on the same test items: ``name`` minus ``over``, each item as its mean over seeds.

        The spread over seeds does not show whether a gain depends on a few test items; this test does. Its mean may
        differ from `gain`, where the metric of the whole split is not the mean over its items, as for RMSE and mIoU.

        Raises:
            SpatialBoostError: they were not measured item by item in the same runs.
        """
        ours, theirs = self._by_item(name, over)
        return paired_test((ours - theirs).mean(0).tolist())

    def views_won(self, name: str = "boosted", over: str = "base") -> float:
        """Share of (seed, test item) pairs on which ``name`` beats ``over`` in the first metric; a tie counts half.

        Raises:
            SpatialBoostError: they were not measured item by item in the same runs.
        """
        ours, theirs = self._by_item(name, over)
        sign = 1 if next(iter(self.metrics.values())).higher_is_better else -1
        return float((np.sign(sign * (ours - theirs)) / 2 + 0.5).mean())

    def _by_item(self, name: str, over: str) -> tuple[np.ndarray, np.ndarray]:
        """The first metric of both for each seed and test item."""
        both = [[row.per_view for row in self.rows if row.name == each] for each in (name, over)]
        lengths = [[len(run) for run in runs] for runs in both]
        if not lengths[0] or lengths[0] != lengths[1] or len(set(lengths[0])) > 1 or not lengths[0][0]:
            raise SpatialBoostError(f"{name!r} and {over!r} were not measured item by item in the same runs")
        return np.array(both[0], np.float64), np.array(both[1], np.float64)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the panels, JSON-able."""
        summary = {name: {metric: vars(self.spread(name, metric)) for metric in self.metrics} for name in self.names}
        rows = [
            {
                "name": row.name,
                "seed": row.seed,
                "metrics": dict(row.metrics),
                "chosen": dict(row.chosen),
                "per_view": list(row.per_view),
            }
            for row in self.rows
        ]
        return {
            "probe": self.probe,
            "settings": dict(self.settings),
            "metrics": {key: asdict(metric) for key, metric in self.metrics.items()},
            "summary": summary,
            "gain": {metric: vars(self.gain(metric)) for metric in self.metrics} if self._both else {},
            "paired": self._paired_tests(),
            "rows": rows,
        }

    @property
    def _both(self) -> bool:
        return {"base", "boosted"} <= set(self.names)

    def _paired_tests(self) -> dict[str, Any]:
        """The paired test over base of each name that has one; JSON-able."""
        metric, found = next(iter(self.metrics)), {}
        for name in self.names:
            if name == "base":
                continue
            try:
                found[name] = {"metric": metric, **asdict(self.paired(name)), "views_won": self.views_won(name)}
            except SpatialBoostError:  # a baseline, or a probe without a score for each item
                continue
        return found

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``{probe}.json``, and ``{probe}.png`` if matplotlib is installed; returns the paths of these files."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        written = [folder / f"{self.probe}.json"]
        written[0].write_text(json.dumps(_finite(self.to_dict()), indent=2, allow_nan=False) + "\n")
        try:
            figure = self.figure()
        except ModuleNotFoundError:
            logger.warning('no picture without matplotlib: pip install "spatialboost[train]"')
            return written
        written.append(folder / f"{self.probe}.png")
        figure.savefig(written[1], dpi=120)
        return written

    def table(self) -> Table:
        """A rich table: mean and spread of every metric, and the gain of boosted over base if both were measured.

        Each metric has a line: a probe with ten metrics would not fit a terminal of 80 columns side by side.
        """
        from rich.table import Table
        from rich.text import Text

        table = Table(title=f"{self.probe} probe", title_justify="left", box=None, pad_edge=False)
        heads = [*self.names, *(["boosted - base"] if self._both else [])]
        table.add_column("")
        for head in heads:
            table.add_column(Text(head), justify="right")
        for name, metric in self.metrics.items():
            arrow = "\N{UPWARDS ARROW}" if metric.higher_is_better else "\N{DOWNWARDS ARROW}"  # the better direction
            values = [str(self.spread(each, name)) for each in self.names]
            gain = [str(self.gain(name))] if self._both else []
            table.add_row(Text(f"{metric.title} {arrow}"), *values, *gain)
        return table

    def paired_line(self) -> str:
        """The paired test of boosted over base in one line; empty if there is none."""
        try:
            test, won = self.paired(), self.views_won()
        except SpatialBoostError:
            return ""
        title = next(iter(self.metrics.values())).title
        return f"boosted - base on the same {test.num} items, {title}: {test}; better on {won:.0%} (a tie counts half)"

    def caption(self) -> str:
        """The settings in one line, for tables and pictures."""
        shown = {key: value for key, value in self.settings.items() if not isinstance(value, Mapping)}
        if "left out" in shown:  # the JSON has their names
            shown["left out"] = len(shown["left out"])
        for noun in ("views", "images"):
            if noun in shown and len(shown[noun]) == 2:
                shown[noun] = "{} to train on, {} to test on".format(*shown[noun])
        return "; ".join(f"{key}: {_short(value)}" for key, value in shown.items())

    def figure(self) -> Figure:
        """The picture: test items with the predictions of each encoder, and every run as a dot.

        Raises:
            ModuleNotFoundError: matplotlib is missing (``pip install "spatialboost[train]"``).
        """
        return draw_figure(f"{self.probe} probe", self.caption(), self.panels, self.metrics, self.rows)

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.text import Text

        return Group(self.table(), *(Text(line) for line in (self.paired_line(), self.caption()) if line))

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(file=io.StringIO(), width=110)
        console.print(self)
        return console.file.getvalue()  # type: ignore[attr-defined]  # the StringIO given above


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_short(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _finite(value: Any) -> Any:
    """The value with None in place of numbers that JSON cannot store."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
