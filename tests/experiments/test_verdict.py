from __future__ import annotations

import pytest

from spatialboost.errors import SpatialBoostError
from spatialboost.experiments.verdict import verdict
from spatialboost.probes.result import Metric, ProbeResult, ProbeRow

CONTROL = "shuffled answers"


def probe(metric: Metric, **values: list[float]) -> ProbeResult:
    rows = [
        ProbeRow(name.replace("_", " "), draw, {"figure": value})
        for name, figures in values.items()
        for draw, value in enumerate(figures)
    ]
    return ProbeResult("made", {}, {"figure": metric}, rows)


RMSE, ACCURACY = Metric("RMSE", "m"), Metric("accuracy", higher_is_better=True)


@pytest.mark.parametrize(
    ("base", "shuffled", "begins"),
    [
        (0.5, 0.5, "Boosted beats base (RMSE 0.400 m against 0.500 m) and the control shuffled answers (0.500 m)."),
        (0.5, 0.3, "No effect is shown: boosted beats base in 2 of 2 pairs, the control shuffled answers in 0 (RMSE: "),
        (0.3, 0.5, "No effect is shown: boosted beats base in 0 of 2 pairs"),
        (0.4, 0.5, "No effect is shown: boosted beats base in 0 of 2 pairs"),  # equal is not better
    ],
)
def test_the_verdict_says_what_the_figures_say(base, shuffled, begins):
    result = probe(RMSE, base=[base] * 2, boosted=[0.4] * 2, shuffled_answers=[shuffled] * 2)
    assert verdict([result], [CONTROL]).startswith(begins)


def test_where_higher_is_better():
    result = probe(ACCURACY, base=[0.5], boosted=[0.6])
    assert verdict([result]) == "Boosted beats base (accuracy 0.600 against 0.500)."
    worse = probe(ACCURACY, base=[0.6], boosted=[0.5])
    assert verdict([worse]).startswith("No effect is shown: boosted beats base in 0 of 1 pairs")


def test_every_training_seed_counts():
    good = probe(RMSE, base=[0.5, 0.5], boosted=[0.4, 0.4])
    mixed = probe(RMSE, base=[0.5, 0.5], boosted=[0.4, 0.6])
    assert verdict([good, good]).startswith("Boosted beats base (RMSE 0.400 m against 0.500 m).")
    assert verdict([good, mixed]).startswith("No effect is shown: boosted beats base in 3 of 4 pairs (RMSE: boosted")


def test_a_gain_of_a_few_items_is_none():
    """A better mean over all items, when about as many items are worse as are better, may be chance."""
    items = [0.5] * 40
    for gains, begins in (
        (
            [0.02, -0.02] * 19 + [0.02, 0.02],
            "No effect is shown: boosted beats base in 1 of 1 pairs (over the same items p = ",
        ),
        ([0.02] * 40, "Boosted beats base (accuracy 0.520 against 0.500)."),
    ):
        boosted = [a + b for a, b in zip(items, gains, strict=True)]
        rows = [
            ProbeRow(name, 0, {"figure": sum(each) / 40}, per_view=each)
            for name, each in (("base", items), ("boosted", boosted))
        ]
        assert verdict([ProbeResult("made", {}, {"figure": ACCURACY}, rows)]).startswith(begins)


def test_what_was_not_measured_is_no_verdict():
    with pytest.raises(SpatialBoostError, match="no 'figure' of 'shuffled answers'"):
        verdict([probe(RMSE, base=[1.0], boosted=[0.5])], [CONTROL])
    with pytest.raises(SpatialBoostError, match="no probe result was given"):
        verdict([])
