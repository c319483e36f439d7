"""Pinhole camera geometry: from pixels to 3D points and back.

Camera frame as in OpenCV: x right, y down, z forward, in metres. The centre of the top left pixel is (0, 0), so an
image extends from -0.5 to W - 0.5 and normalised coordinates are ``((u + 0.5) / W, (v + 0.5) / H)``.
"""

from __future__ import annotations

import numpy as np

from spatialboost.errors import SpatialBoostError

# Shape legend: H, W = image height and width in pixels; "..." = any leading axes.


def unproject(depth_HW: np.ndarray, intrinsics_33: np.ndarray) -> np.ndarray:
    """Compute the 3D point of each pixel of a depth map.

    Example:
        >>> intrinsics = np.array([[100.0, 0, 1.5], [0, 100.0, 0.5], [0, 0, 1]])
        >>> unproject(np.full((2, 4), 2.0), intrinsics)[0, 3].tolist()
        [0.03, -0.01, 2.0]

    Args:
        depth_HW: z in metres (not the length of the ray). The result also has points for pixels without a reading: NaN
            gives NaN, and 0 gives the origin. Use ``Cues.valid_HW`` to remove them.
        intrinsics_33: camera matrix in pixels of this depth map. Skew is used.

    Returns:
        float64 ``(H, W, 3)``, metres in the camera's frame.
    """
    height, width = depth_HW.shape
    fx, skew, cx = intrinsics_33[0]
    fy, cy = intrinsics_33[1, 1:]
    y_H1 = ((np.arange(height) - cy) / fy)[:, None]
    x_HW = (np.arange(width) - cx - skew * y_H1) / fx
    rays_HW3 = np.stack([x_HW, np.broadcast_to(y_H1, x_HW.shape), np.ones_like(x_HW)], -1)
    return rays_HW3 * depth_HW[..., None]


def project(points: np.ndarray, intrinsics_33: np.ndarray) -> np.ndarray:
    """Compute the pixel of each 3D point. This is the inverse of ``unproject``.

    Example:
        >>> intrinsics = np.array([[100.0, 0, 1.5], [0, 100.0, 0.5], [0, 0, 1]])
        >>> project(np.array([0.03, -0.01, 2.0]), intrinsics).tolist()
        [3.0, 0.0]

    Args:
        points: ``(..., 3)``, metres in the camera's frame.
        intrinsics_33: camera matrix in pixels.

    Returns:
        ``(..., 2)``, (u, v); NaN for points that are not in front of the camera.
    """
    z = np.where(points[..., 2:] > 0, points[..., 2:], np.nan)
    return (points / z) @ np.asarray(intrinsics_33)[:2].T


def rescale_intrinsics(intrinsics_33: np.ndarray, old_size: tuple[int, int], new_size: tuple[int, int]) -> np.ndarray:
    """Compute the intrinsics of the same image at another size.

    Pixel centres have integer coordinates, so ``u + 0.5`` is multiplied by the scale, not ``u``. The principal point
    changes accordingly.

    Example:
        >>> intrinsics = np.array([[100.0, 0, 49.5], [0, 100.0, 39.5], [0, 0, 1]])  # the middle of 80 x 100 pixels
        >>> rescale_intrinsics(intrinsics, (80, 100), (40, 50)).tolist()
        [[50.0, 0.0, 24.5], [0.0, 50.0, 19.5], [0.0, 0.0, 1.0]]

    Args:
        intrinsics_33: camera matrix in pixels of an image of ``old_size``.
        old_size: ``(height, width)``.
        new_size: ``(height, width)``.

    Raises:
        SpatialBoostError: a size is below one pixel.
    """
    if min(*old_size, *new_size) < 1:
        raise SpatialBoostError(f"sizes are {old_size} and {new_size}, expected (height, width) of at least one pixel")
    scale_y, scale_x = new_size[0] / old_size[0], new_size[1] / old_size[1]
    scaling = np.array([[scale_x, 0, (scale_x - 1) / 2], [0, scale_y, (scale_y - 1) / 2], [0, 0, 1]])
    return scaling @ intrinsics_33


def to_normalised(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Convert pixels to fractions of the image size: ``(x, y) = ((u + 0.5) / W, (v + 0.5) / H)``.

    Example:
        >>> to_normalised(np.array([0, 9]), (10, 2)).tolist()
        [0.25, 0.95]

    Args:
        pixels: ``(..., 2)``, (u, v); the middle of the top left pixel is (0, 0).
        size: ``(height, width)`` of the image.

    Returns:
        ``(..., 2)``, (x, y); the image extends from 0 to 1.
    """
    return (np.asarray(pixels) + 0.5) / np.array([size[1], size[0]])


def to_pixels(normalised: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Convert fractions of the image size to pixels, not rounded. This is the inverse of ``to_normalised``.

    Example:
        >>> to_pixels(np.array([0.5, 0.5]), (10, 2)).tolist()
        [0.5, 4.5]

    Args:
        normalised: ``(..., 2)``, (x, y).
        size: ``(height, width)`` of the image.

    Returns:
        ``(..., 2)``, (u, v). The pixel that contains the point is ``floor(u + 0.5)``, that is ``floor(x * W)``.
    """
    return np.asarray(normalised) * np.array([size[1], size[0]]) - 0.5
