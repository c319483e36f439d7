import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import spatialboost.probes
from spatialboost.probes.depth_panel import DepthPanel
from spatialboost.probes.result import Metric, ProbeResult, ProbeRow

ROWS = [ProbeRow(name, seed, {"rmse": 0.5 + seed}) for name in ("base", "boosted") for seed in (0, 1)]


@pytest.mark.parametrize("num", [0, 1, 3])
def test_a_row_for_each_view_and_a_plot_for_each_metric(num: int, tmp_path) -> None:
    truth = np.linspace(1, 3, 48).reshape(6, 8)
    truth[0] = np.nan  # no reading
    panel = DepthPanel("view [red]", np.zeros((6, 8, 3), np.uint8), truth, {"base": truth + 0.1, "boosted": truth})
    figure = ProbeResult("depth", {"layer": 3}, {"rmse": Metric("RMSE", "m")}, ROWS, [panel] * num).figure()
    pictures = [axis for axis in figure.axes if axis.get_images()]
    assert len(pictures) == num * 6  # image, depth, two predictions, two errors
    assert "layer: 3" in figure.get_supxlabel() and "joined by seed" in figure.get_supxlabel()
    assert ("first runs" in figure.get_supxlabel()) == bool(num)
    if num:
        titles = [axis.get_title() for axis in pictures[:6]]
        assert titles[0] == "view [red]" and titles[2:4] == ["depth by base [m]", "depth by boosted [m]"]
        assert titles[4:] == ["error of base, RMSE 0.10 m", "error of boosted, RMSE 0.00 m"]
    figure.savefig(tmp_path / "probe.png")
    plots = [axis for axis in figure.axes if axis.get_title().startswith("RMSE [m]")]
    assert len(plots) == 1 and len(plots[0].patches) == 2  # bars
    assert plots[0].get_ylim()[0] == 0  # bars that do not begin at zero lie
    joined = [line for line in plots[0].lines if len(line.get_xdata()) == 2]
    assert len(joined) == 2  # the two runs of each seed


@dataclass
class Patch:
    """A panel of one made-up picture, of any probe."""

    side: int
    num_pictures: int = 1

    @property
    def aspect(self) -> float:
        return 0.5

    def draw(self, axes: Sequence) -> None:
        assert len(axes) == self.num_pictures
        for axis in axes:
            axis.imshow(np.zeros((self.side, 2 * self.side)))


def test_a_panel_draws_itself_and_rows_may_differ_in_length() -> None:
    result = ProbeResult("made up", {}, {"rmse": Metric("RMSE")}, ROWS, [Patch(4), Patch(8, num_pictures=3)])
    figure = result.figure()
    assert sorted(axis.get_images()[0].get_size()[0] for axis in figure.axes if axis.get_images()) == [4, 8, 8, 8]
    empty = [axis for axis in figure.axes if not axis.get_images() and not axis.get_title()]
    assert len(empty) == 2 and not any(axis.axison for axis in empty)


def test_drawing_imports_no_result_and_results_import_no_depth() -> None:
    code = (
        "import sys; import spatialboost.probes.{0}\n"
        "print(*[name for name in sys.modules if name.startswith('spatialboost.probes.')])"
    )
    probes = Path(spatialboost.probes.__file__).parent
    for module, forbidden in (("pictures", {"result"}), ("result", {"depth", "depth_panel", "run", "protocol"})):
        # without the package's own __init__, which hands on the names of all modules
        alone = "import sys, types; package = types.ModuleType('spatialboost.probes')\n"
        alone += f"package.__path__ = [{str(probes)!r}]; sys.modules['spatialboost.probes'] = package\n"
        done = subprocess.run(
            [sys.executable, "-c", alone + code.format(module)], capture_output=True, text=True, check=True
        )
        loaded = {name.rpartition(".")[2] for name in done.stdout.split()}
        assert module in loaded and not loaded & forbidden
