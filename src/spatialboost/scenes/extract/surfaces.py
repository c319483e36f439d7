"""Surfaces of a depth map: normals, the creases between objects, and the planes of floor, walls and ceiling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from spatialboost.scenes.camera import unproject
from spatialboost.scenes.cues import Cues

# Shape legend: H, W = image height and width in pixels; S = superpixels.

_REACH = 3  # pixels: how far a hole is filled; sensors leave lines and specks without readings
_TOLERANCE = 0.015  # how far readings of one plane may be off: metres, plus this fraction of the depth
_MAX_PLANES = 6
_MIN_PLANE = 0.06  # fraction of the readings that a plane needs
_MAX_BEHIND = 0.05  # fraction of the readings that may lie behind a wall or below a floor: noise, windows, doors


@dataclass(frozen=True)
class Surface:
    """The surface that a depth map shows."""

    depth_HW: np.ndarray  # depth in metres; holes are filled with the nearest reading
    points_HW3: np.ndarray  # points in metres in the camera's frame
    normals_HW3: np.ndarray  # normals of length one that point towards the camera
    known_HW: np.ndarray  # bool, pixels at most three pixels away from a reading


def measure_surface(cues: Cues, *, window: int) -> Surface:
    """Fit a plane around every pixel.

    On a plane the inverse depth is linear in the pixel's coordinates, ``1 / z = a x + b y + c``, and (a, b, c) has the
    direction of its normal. So a least squares fit is made over the square window around each pixel. Box filters
    compute its sums.
    """
    away_HW, (rows_HW, columns_HW) = ndimage.distance_transform_edt(~cues.valid_HW, return_indices=True)
    depth_HW = cues.depth_HW[rows_HW, columns_HW].astype(np.float64)
    known_HW = away_HW <= _REACH
    rays_HW3 = unproject(np.ones_like(depth_HW), cues.intrinsics_33)
    x, y, inverse = rays_HW3[..., 0], rays_HW3[..., 1], 1.0 / depth_HW
    weight = ndimage.uniform_filter(known_HW.astype(np.float64), window, mode="nearest") + 1e-9

    def mean(values: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(np.where(known_HW, values, 0.0), window, mode="nearest") / weight

    mean_x, mean_y, mean_i = mean(x), mean(y), mean(inverse)
    xx, yy, xy = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2, mean(x * y) - mean_x * mean_y
    xi, yi = mean(x * inverse) - mean_x * mean_i, mean(y * inverse) - mean_y * mean_i
    determinant = xx * yy - xy * xy + 1e-14
    a, b = (xi * yy - yi * xy) / determinant, (yi * xx - xi * xy) / determinant
    normals_HW3 = -np.stack([a, b, mean_i - a * mean_x - b * mean_y], -1)
    normals_HW3 /= np.linalg.norm(normals_HW3, axis=-1, keepdims=True) + 1e-12
    return Surface(depth_HW, rays_HW3 * depth_HW[..., None], normals_HW3, known_HW)


def measure_creases(surface: Surface, *, reach: int) -> np.ndarray:
    """Measure creases: ``(H, W)``, >= 0.

    The value is how far the surface ``reach`` pixels to one side of a pixel lies in front of the tangent plane of the
    other side, divided by the depth. Where two objects meet, there is a concave crease or a depth jump. A convex edge
    belongs to one object and gives 0.
    Source: the convexity criterion of Stein et al., "Object Partitioning using Local Convexity", CVPR 2014.
    """
    creases_HW = np.zeros_like(surface.depth_HW)
    for axis in (0, 1):
        (point, normal, known), (next_point, next_normal, next_known) = (
            [_shift(a, by, axis) for a in (surface.points_HW3, surface.normals_HW3, surface.known_HW)]
            for by in (-reach, reach)
        )
        step = next_point - point
        out = np.maximum((normal * step).sum(-1), -(next_normal * step).sum(-1)) / surface.depth_HW
        np.maximum(creases_HW, np.where(known & next_known, out, 0.0), out=creases_HW)
    return creases_HW


def find_bounds(surface: Surface, labels_HW: np.ndarray) -> np.ndarray:
    """Superpixels on floor, walls or ceiling, bool ``(S,)``: large planes with almost no points behind them."""
    known = surface.known_HW.ravel()
    labels = labels_HW.ravel()[known]
    num = int(labels_HW.max()) + 1
    count_S = np.bincount(labels, minlength=num).astype(np.float64)

    def mean(values_HW3: np.ndarray) -> np.ndarray:
        sums = [np.bincount(labels, values_HW3[..., k].ravel()[known], minlength=num) for k in range(3)]
        return np.stack(sums, -1) / np.maximum(count_S, 1)[:, None]

    points_S3, normals_S3 = mean(surface.points_HW3), mean(surface.normals_HW3)
    length_S = np.linalg.norm(normals_S3, axis=-1)
    normals_S3 /= length_S[:, None] + 1e-9
    tolerance_S = _TOLERANCE * (points_S3[:, 2] + 1.0)
    # Try the plane of every superpixel: row i shows which superpixels (columns) lie on the plane of superpixel i.
    height_SS = normals_S3 @ points_S3.T - (normals_S3 * points_S3).sum(-1)[:, None]
    alike_SS = (np.abs(height_SS) < tolerance_S) & (normals_S3 @ normals_S3.T > 0.85)
    behind_S = ((height_SS < -4 * tolerance_S) * count_S).sum(1)
    bounding_S = (length_S > 0.95) & (behind_S < _MAX_BEHIND * count_S.sum())
    found_S, free_S = np.zeros(num, bool), count_S > 0
    for _ in range(_MAX_PLANES):
        support_S = ((alike_SS & free_S) * count_S).sum(1) * (bounding_S & free_S)
        best = int(support_S.argmax())
        if support_S[best] < _MIN_PLANE * count_S.sum():
            break
        on_S = alike_SS[best] & free_S
        centre = np.average(points_S3[on_S], axis=0, weights=count_S[on_S])
        spread = (points_S3[on_S] - centre) * np.sqrt(count_S[on_S])[:, None]
        normal = np.linalg.svd(spread, full_matrices=False)[2][-1] if on_S.sum() > 2 else normals_S3[best]
        normal = normal if normal @ normals_S3[best] > 0 else -normal
        on_S = (np.abs((points_S3 - centre) @ normal) < tolerance_S) & (normals_S3 @ normal > 0.8) & free_S
        on_S[best] = True
        found_S |= on_S
        free_S &= ~on_S
    return found_S


def _shift(values: np.ndarray, by: int, axis: int) -> np.ndarray:
    """Shift the values by ``by`` pixels along an axis; the values at the border are repeated."""
    index = np.clip(np.arange(values.shape[axis]) + by, 0, values.shape[axis] - 1)
    return values.take(index, axis)
