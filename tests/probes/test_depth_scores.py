"""The scores of depth against scikit-learn and numpy, and the parts of views that are measured."""

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_percentage_error, mean_squared_error

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.depth_scores import crop_depth, score_depths, used_part


def some_views(seed: int = 0):
    """Truths with holes, and predictions of two runs."""
    rng = np.random.default_rng(seed)
    views = []
    for _ in range(3):
        truth = rng.uniform(1, 8, (20, 30))
        guesses = [truth * rng.uniform(0.5, 2.0, truth.shape), truth + rng.normal(0, 0.3, truth.shape).clip(-0.9)]
        truth[rng.random(truth.shape) < rng.uniform(0.2, 0.6)] = np.nan
        views.append(([torch.from_numpy(guess) for guess in guesses], torch.from_numpy(truth)))
    return views


def theirs(guess: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    known = np.isfinite(truth)
    guess, truth = guess[known], truth[known]
    ratio = np.maximum(guess / truth, truth / guess)
    return {
        "rmse": mean_squared_error(truth, guess) ** 0.5,
        "abs_rel": mean_absolute_percentage_error(truth, guess),
        **{f"delta{power}": float((ratio < 1.25**power).mean()) for power in (1, 2, 3)},
    }


def test_scores_are_those_of_scikit_learn():
    views = some_views()
    for run, (metrics, per_view) in enumerate(score_depths(views)):
        guess = np.stack([guesses[run].numpy() for guesses, _ in views])
        truth = np.stack([truth.numpy() for _, truth in views])
        assert metrics == pytest.approx(theirs(guess, truth), abs=1e-6)
        alone = [theirs(*each) for each in zip(guess, truth, strict=True)]
        assert per_view == pytest.approx([each["rmse"] for each in alone])
        of_views, _ = score_depths(views, "views")[run]
        assert of_views == pytest.approx({key: np.mean([each[key] for each in alone]) for key in metrics}, abs=1e-6)
        assert of_views["rmse"] != pytest.approx(metrics["rmse"], abs=1e-6)


def test_crops_are_those_of_the_public_code():
    full = np.random.default_rng(0).uniform(1, 5, (480, 640))
    measured = np.argwhere(np.isfinite(crop_depth(full, "eigen")))
    assert (measured.min(0), measured.max(0) + 1) == (pytest.approx([45, 41]), pytest.approx([471, 601]))
    # the numbers that several public evaluations print for KITTI's sizes
    for size, rows_and_columns in (((375, 1242), [153, 371, 44, 1197]), ((376, 1241), [153, 372, 44, 1196])):
        measured = np.argwhere(np.isfinite(crop_depth(np.ones(size), "garg")))
        (top, left), (bottom, right) = measured.min(0), measured.max(0) + 1
        assert [top, bottom, left, right] == rows_and_columns
    assert crop_depth(full, "none") is full
    rows, columns = used_part((376, 1241), "garg")
    assert (rows.start, rows.stop, columns.start, columns.stop) == (24, 376, 12, 1228)
    assert used_part((352, 1216), "garg") == (slice(0, 352), slice(0, 1216))
    assert used_part((100, 200), "garg") == (slice(0, 100), slice(0, 200))


def test_views_without_a_reading_do_not_count():
    empty = ([torch.ones(2, 2)], torch.full((4, 4), float("nan")))
    full = ([torch.ones(2, 2).double()], torch.full((4, 4), 2.0).double())
    assert score_depths([empty, full]) == score_depths([full])
    assert score_depths([full])[0][0] == {"rmse": 1.0, "abs_rel": 0.5, "delta1": 0.0, "delta2": 0.0, "delta3": 0.0}
    with pytest.raises(SpatialBoostError, match="no place of the test views has a known depth"):
        score_depths([empty])
