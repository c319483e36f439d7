import numpy as np
import pytest

from spatialboost.probes.pictures import draw
from spatialboost.probes.result import Metric, Panel, ProbeResult, ProbeRow

ROWS = [ProbeRow(name, seed, {"rmse": 0.5 + seed}) for name in ("base", "boosted") for seed in (0, 1)]


@pytest.mark.parametrize("num", [0, 1, 3])
def test_a_row_for_each_view_and_a_plot_for_each_metric(num: int, tmp_path) -> None:
    truth = np.linspace(1, 3, 48).reshape(6, 8)
    truth[0] = np.nan  # no reading
    panel = Panel("view [red]", np.zeros((6, 8, 3), np.uint8), truth, {"base": truth + 0.1, "boosted": truth})
    figure = draw(ProbeResult("depth", {"layer": 3}, {"rmse": Metric("RMSE", "m")}, ROWS, [panel] * num))
    pictures = [axis for axis in figure.axes if axis.get_images()]
    assert len(pictures) == num * 6  # image, depth, two predictions, two errors
    assert "layer: 3" in figure.get_supxlabel()
    figure.savefig(tmp_path / "probe.png")
    plots = [axis for axis in figure.axes if axis.get_title().startswith("RMSE [m]")]
    assert len(plots) == 1 and len(plots[0].patches) == 2  # bars
    assert plots[0].get_ylim()[0] == 0  # bars that do not begin at zero lie
    joined = [line for line in plots[0].lines if len(line.get_xdata()) == 2]
    assert len(joined) == 2  # the two runs of each seed
