"""The scores of predicted depth maps (RMSE, AbsRel, shares within powers of 1.25), and where they are measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from spatialboost.errors import SpatialBoostError
from spatialboost.probes import heads
from spatialboost.probes.measures import Metric

# Shape legend: H and W pixels of a depth map, h and w cells of a predicted one.

METRICS = {
    "rmse": Metric("RMSE", "m"),
    "abs_rel": Metric("AbsRel"),
    **{f"delta{power}": Metric(f"delta{power}", higher_is_better=True) for power in (1, 2, 3)},
}

Crop = Literal["none", "eigen", "garg"]
Average = Literal["pixels", "views"]

# Top, bottom, left and right of what is measured, as shares of the height and the width
_CROPS = {"eigen": (45 / 480, 471 / 480, 41 / 640, 601 / 640), "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229)}
_KITTI = 352, 1216  # the part of KITTI's images that is used


def score_depths(
    pairs: Iterable[tuple[Sequence[Tensor], Tensor]], average: Average = "pixels"
) -> list[tuple[dict[str, float], list[float]]]:
    """For each run: the metrics over all known places, and the RMSE of each view alone.

    Args:
        pairs: for each view the prediction of each run ``(h, w)`` in metres, and the true depth ``(H, W)``, NaN where
            it is not measured. Predictions are enlarged bilinearly to the size of the truth.
        average: over all places of all views together, or over views, each with its own score.

    Raises:
        SpatialBoostError: no place has a known depth.
    """
    sums: list[Tensor] = []
    views: list[list[dict[str, float]]] = []
    for predictions, truth_HW in pairs:
        sums = sums or [torch.zeros(6, dtype=torch.float64) for _ in predictions]
        views = views or [[] for _ in predictions]
        known_HW = truth_HW.isfinite()
        if not bool(known_HW.any()):
            continue
        depth = truth_HW[known_HW]
        for run, guess_hw in enumerate(predictions):
            guess = enlarge(guess_hw, (truth_HW.shape[0], truth_HW.shape[1]))[known_HW]
            error, ratio = guess - depth, torch.maximum(guess / depth, depth / guess)
            within = [(ratio < 1.25**power).sum() for power in (1, 2, 3)]
            found = [error.square().sum(), (error.abs() / depth).sum(), *within]
            own = torch.tensor([len(depth), *(float(value) for value in found)], dtype=torch.float64)
            sums[run] += own
            views[run].append(_metrics(own))
    if not views or not views[0]:
        raise SpatialBoostError(
            "no place of the test views has a known depth: measure on pixels, or give a smaller `min_valid`, another "
            "`crop` or another range of depths"
        )
    return [
        (_metrics(total) if average == "pixels" else _means(each), [view["rmse"] for view in each])
        for total, each in zip(sums, views, strict=True)
    ]


def enlarge(depth_hw: Tensor, size: tuple[int, int]) -> Tensor:
    """A predicted depth map, enlarged bilinearly to ``size``."""
    return depth_hw if depth_hw.shape == size else heads.enlarge(depth_hw[None, None], size)[0, 0]


def used_part(size: tuple[int, int], crop: Crop) -> tuple[slice, slice]:
    """Rows and columns of a view that are used: for ``garg`` the lower middle 352x1216 pixels of KITTI's images.

    All other views are used whole, and also those that are smaller.

    Example:
        >>> used_part((375, 1242), "garg"), used_part((480, 640), "eigen")
        ((slice(23, 375, None), slice(13, 1229, None)), (slice(0, 480, None), slice(0, 640, None)))
    """
    height, width = size
    if crop != "garg" or height < _KITTI[0] or width < _KITTI[1]:
        return slice(0, height), slice(0, width)
    left = (width - _KITTI[1]) // 2
    return slice(height - _KITTI[0], height), slice(left, left + _KITTI[1])


def crop_depth(depth_HW: np.ndarray, crop: Crop) -> np.ndarray:
    """Depth with NaN outside of what is measured.

    Example:
        >>> int(np.isfinite(crop_depth(np.ones((480, 640)), "eigen")).sum()), (471 - 45) * (601 - 41)
        (238560, 238560)

    ``eigen`` is for NYUv2 (Eigen et al., arXiv 1406.2283), ``garg`` for KITTI (Garg et al., arXiv 1603.04992), both as
    in the public code of BTS (arXiv 1907.10326). For images of another size they are taken as shares.
    """
    if crop == "none":
        return depth_HW
    height, width = depth_HW.shape
    top, bottom, left, right = _CROPS[crop]
    part = (slice(int(top * height), int(bottom * height)), slice(int(left * width), int(right * width)))
    cropped_HW = np.full(depth_HW.shape, np.nan)
    cropped_HW[part] = depth_HW[part]
    return cropped_HW


def _metrics(sums: Tensor) -> dict[str, float]:
    num, squared, relative, *within = sums.tolist()
    shares = {f"delta{power}": each / num for power, each in enumerate(within, start=1)}
    return {"rmse": (squared / num) ** 0.5, "abs_rel": relative / num, **shares}


def _means(views: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.fmean(view[key] for view in views) for key in views[0]}
