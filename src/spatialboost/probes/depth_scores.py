"""The scores of predicted depth maps: RMSE, AbsRel and the share within a factor of 1.25."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.measures import Metric

# Shape legend: V views, N patches, H and W pixels of a depth map.

METRICS = {
    "rmse": Metric("RMSE", "m"),
    "abs_rel": Metric("AbsRel"),
    "delta1": Metric("delta < 1.25", higher_is_better=True),
}


def score_depths(
    runs: Sequence[Tensor], truths: Iterable[Tensor], grid: tuple[int, int]
) -> list[tuple[dict[str, float], list[float]]]:
    """For each run: the metrics over all known places of all views together, and the RMSE of each view alone.

    Args:
        runs: predictions ``(V, N)`` of each run, in metres.
        truths: true depth of each view in metres, NaN where unknown: for pixels ``(H, W)``, to which predictions are
            enlarged, or for patches, in the shape of the grid.
        grid: rows and columns of patches.

    Raises:
        SpatialBoostError: no place has a known depth.
    """
    sums = torch.zeros(len(runs), 4, dtype=torch.float64)  # places, squared error, relative error, within a quarter
    per_view: list[list[float]] = [[] for _ in runs]
    for index, truth in enumerate(truths):
        known = truth.isfinite()
        depth = truth[known]
        for run, predictions_VN in enumerate(runs):
            guess = predictions_VN[index]
            guess = guess.view(grid) if truth.shape == grid else enlarge(guess, grid, (truth.shape[0], truth.shape[1]))
            guess = guess[known]
            error = guess - depth
            ratio = torch.maximum(guess / depth, depth / guess)
            found = error.square().sum(), (error.abs() / depth).sum(), (ratio < 1.25).sum()
            sums[run] += torch.tensor([len(depth), *(float(value) for value in found)], dtype=torch.float64)
            if len(depth):
                per_view[run].append((float(found[0]) / len(depth)) ** 0.5)
    return [(_metrics(*run), views) for run, views in zip(sums.tolist(), per_view, strict=True)]


def enlarge(depth_N: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The depth of the patches, enlarged bilinearly to pixels ``(H, W)``."""
    enlarged = nn.functional.interpolate(depth_N.view(1, 1, *grid), size=size, mode="bilinear", align_corners=False)
    return enlarged[0, 0]


def _metrics(num: float, squared: float, relative: float, within: float) -> dict[str, float]:
    if not num:
        raise SpatialBoostError(
            "no patch of the test views has a known depth: measure on pixels, or give a smaller `min_valid`"
        )
    return {"rmse": (squared / num) ** 0.5, "abs_rel": relative / num, "delta1": within / num}
