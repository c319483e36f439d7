"""The depth of a patch, computed from the depth readings of its pixels: the target of the depth probe."""

from __future__ import annotations

from typing import Literal

import numpy as np

from spatialboost.probes.windows import whole
from spatialboost.scenes.cues import Cues

# Shape legend: N patches, P pixels of a patch, H and W pixels of a depth map.

PatchDepth = Literal["mean", "median"]


def known_depth(view: Cues) -> np.ndarray:
    """Depth ``(H, W)`` in metres, NaN where there is no reading."""
    return np.where(view.valid_HW, view.depth_HW, np.nan)


def patch_depths(
    depth_HW: np.ndarray, grid: tuple[int, int], image_size: tuple[int, int], patch_depth: PatchDepth, min_valid: float
) -> np.ndarray:
    """Depth ``(N,)`` of each patch in metres, NaN where less than a share ``min_valid`` of it has a reading.

    Example:
        >>> depth_HW = np.array([[1, 3, 5, np.nan], [1, 3, np.nan, np.nan]])  # two patches
        >>> patch_depths(depth_HW, grid=(1, 2), image_size=(2, 4), patch_depth="mean", min_valid=0.5)
        array([ 2., nan])
    """
    cells_NP = _cells(depth_HW, grid, image_size)
    enough_N = np.isfinite(cells_NP).mean(1) >= min_valid
    depth_N = np.full(len(cells_NP), np.nan)
    depth_N[enough_N] = (np.nanmean if patch_depth == "mean" else np.nanmedian)(cells_NP[enough_N], axis=1)
    return depth_N


def _cells(depth_HW: np.ndarray, grid: tuple[int, int], image_size: tuple[int, int]) -> np.ndarray:
    """Depth ``(N, P)`` of the pixels of each patch as the encoder sees them, NaN where there is no reading."""
    (rows, columns), (height, width) = grid, image_size
    depth_hw = whole(image_size).of_map(depth_HW)
    cells = depth_hw.reshape(rows, height // rows, columns, width // columns).swapaxes(1, 2)
    return cells.reshape(rows * columns, -1)
