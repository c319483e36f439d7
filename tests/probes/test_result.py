import io
import json

import pytest
from rich.console import Console

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.result import Metric, ProbeResult, ProbeRow, Spread

ROWS = [
    ProbeRow("base", 0, {"rmse": 0.5}, per_view=(0.4, 0.6)),
    ProbeRow("base", 1, {"rmse": 0.7}, per_view=(0.6, 0.8)),
    ProbeRow("boosted", 0, {"rmse": 0.4}, per_view=(0.3, 0.7)),
    ProbeRow("boosted", 1, {"rmse": 0.5}, per_view=(0.5, 0.5)),
    ProbeRow("constant", None, {"rmse": 0.9}),
]
RESULT = ProbeResult("depth", {"layer": 3, "left out": []}, {"rmse": Metric("RMSE", "m")}, ROWS)


def test_mean_and_sample_deviation_over_seeds() -> None:
    spread = RESULT.spread("base", "rmse")
    assert (spread.mean, spread.num) == (pytest.approx(0.6), 2)
    assert spread.std == pytest.approx(0.02**0.5)
    assert RESULT.spread("constant", "rmse") == Spread(0.9, None, 1)


def test_gain_and_views_won() -> None:
    gain = RESULT.gain("rmse")
    assert (gain.mean, gain.std) == (pytest.approx(-0.15), pytest.approx(0.05 * 2**0.5))  # of -0.1 and -0.2
    assert RESULT.views_won() == 0.75
    higher = ProbeResult("knn", {}, {"rmse": Metric("accuracy", higher_is_better=True)}, ROWS)
    assert higher.views_won() == 0.25


def test_a_tie_counts_half() -> None:
    rows = [ProbeRow(name, None, {"accuracy": 0.5}, per_view=right) for name, right in (
        ("base", (1, 0, 1, 0)), ("boosted", (1, 1, 1, 0)),
    )]  # fmt: skip
    result = ProbeResult("knn", {}, {"accuracy": Metric("accuracy", higher_is_better=True)}, rows)
    assert result.views_won() == (3 * 0.5 + 1) / 4 and result.views_won("base", over="boosted") == 3 * 0.5 / 4


def test_the_paired_test_is_over_items_not_over_runs() -> None:
    test = RESULT.paired()  # of -0.1 and -0.1 (first item), 0.1 and -0.3 (second)
    assert test.num == 2 and test.mean == pytest.approx(-0.1)
    assert test.low == pytest.approx(-0.1) and test.high == pytest.approx(-0.1)
    assert "on the same 2 items, RMSE [m]: -0.100" in " ".join(str(RESULT).split())
    for name, over in (("boosted", "constant"), ("nothing", "base"), ("boosted", "nothing")):
        with pytest.raises(SpatialBoostError, match="not measured item by item"):
            RESULT.paired(name, over)
    assert RESULT.to_dict()["paired"].keys() == {"boosted"}


def test_what_was_not_measured_is_said() -> None:
    with pytest.raises(SpatialBoostError, match=r"no 'rmse' of 'control'.*'base', 'boosted', 'constant'"):
        RESULT.values("control", "rmse")
    with pytest.raises(SpatialBoostError, match="not the same seeds"):
        RESULT.gain("rmse", over="constant")


def test_the_table_shows_settings_and_gain() -> None:
    text = str(RESULT)
    assert "0.600 +- 0.141" in text and "-0.150 +- 0.071" in text and "layer: 3; left out: 0" in text


def test_json_round_trip() -> None:
    read = json.loads(json.dumps(RESULT.to_dict()))
    assert read["summary"]["constant"]["rmse"] == {"mean": 0.9, "std": None, "num": 1}
    assert read["rows"][2]["per_view"] == [0.3, 0.7]
    assert read["metrics"]["rmse"] == {"label": "RMSE", "unit": "m", "higher_is_better": False}
    assert read["gain"]["rmse"]["mean"] == pytest.approx(-0.15) and read["paired"]["boosted"]["views_won"] == 0.75


def test_the_picture_needs_no_panels() -> None:
    assert len(RESULT.figure().axes) == 1


def test_a_table_of_many_metrics_fits_a_terminal_of_80_columns() -> None:
    names = [f"within_{i}" for i in range(12)]
    rows = [
        ProbeRow(name, seed, {each: 0.125 + seed + i for i, each in enumerate(names)})
        for name in ("base", "boosted", "random matches")
        for seed in (0, 1)
    ]
    metrics = {each: Metric(f"within {each[7:]}°", higher_is_better=True) for each in names}
    console = Console(file=io.StringIO(), width=80)
    console.print(ProbeResult("pose", {}, metrics, rows).table())
    shown = console.file.getvalue()
    assert all(f"within {i}°" in shown and f"{0.625 + i:.3f} +- 0.707" in shown for i in range(12))
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown and len(shown.splitlines()) == 14
