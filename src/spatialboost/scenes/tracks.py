"""Tracks: where the points of a scene's first view are seen in its other views, from depth, intrinsics and poses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.camera import project
from spatialboost.scenes.cues import Cues
from spatialboost.scenes.scene import Scene

# Shape legend: T tracks (query points), V views, H and W pixels of a depth map.

AGREE = 0.05  # two depths of one point differ by less than this share of the smaller one
BORDER = 4  # pixels; a point nearer to the edge of an image is not followed
_NEIGHBOURS = ((0, 0), (1, 0), (0, 1), (1, 1))  # of the pixel above and left of a point


@dataclass(frozen=True)
class Tracks:
    """Points of the first view, followed into every view of a scene.

    Attributes:
        pixels_VT2: float64 ``(V, T, 2)``, (u, v) in pixels of each view; NaN where the point lies behind the camera.
        visible_VT: bool ``(V, T)``, whether the view sees the point: it lies in the image, and the depth that was
            measured there is the point's depth.
        depths_VT: float64 ``(V, T)``, z of the point in the frame of each view's camera, in metres.
    """

    pixels_VT2: np.ndarray
    visible_VT: np.ndarray
    depths_VT: np.ndarray

    def __len__(self) -> int:
        return self.pixels_VT2.shape[1]


def find_tracks(
    scene: Scene,
    points_T2: np.ndarray,
    *,
    agree: float = AGREE,
    border: float = BORDER,
    occluder: bool = True,
    neighbours: Literal["any", "all"] = "any",
) -> Tracks:
    """Follow points of the first view into all views.

    Example:
        >>> from spatialboost.scenes.rooms.render import render_scenes
        >>> scene = render_scenes([2], views=2, size=64)[0]
        >>> tracks = find_tracks(scene, np.array([[20.0, 40.0], [50.0, 50.0]]))
        >>> tracks.pixels_VT2[0].tolist(), tracks.visible_VT[0].tolist()
        ([[20.0, 40.0], [50.0, 50.0]], [True, True])

    A point is lifted by the depth of the nearest pixel, moved into the other camera and projected. A view sees it if
    the depth at one of the four pixels around its projection agrees with its own depth. The first view sees a point if
    the nearest pixel has a reading. Noise of the depth widens the tolerance: twice the noise of both views is added.

    Args:
        scene: the views, each with depth and, if there are several, a pose.
        points_T2: (u, v) in pixels of the first view; the centre of the top left pixel is (0, 0).
        agree: largest difference of the two depths, as a share of the smaller one.
        border: a point nearer to an image's edge than this is not visible, in pixels.
        occluder: False leaves out the comparison of depths, so that hidden points count as visible.
        neighbours: ``any``: one of the four pixels has to agree. ``all``: all four have to, so that points at the edge
            of something nearer are left out.

    Raises:
        SpatialBoostError: the points have another shape, or lie outside the first image.

    Source: GASP (arXiv 2605.30231), appendix; the recipe is VGGT's.
    """
    points_T2 = np.asarray(points_T2, np.float64)
    first = scene.views[0]
    height, width = first.size
    if points_T2.ndim != 2 or points_T2.shape[1] != 2:
        raise SpatialBoostError(f"points are {points_T2.shape}; expected (T, 2), one (u, v) for each point")
    if not ((points_T2 >= -0.5) & (points_T2 < (width - 0.5, height - 0.5))).all():
        raise SpatialBoostError(f"a point lies outside the first image of {height} x {width} pixels")
    column, row = np.floor(points_T2 + 0.5).astype(int).T
    depth_T = np.where(first.valid_HW[row, column], first.depth_HW[row, column], np.nan).astype(np.float64)
    homogeneous = np.concatenate([points_T2, np.ones((len(points_T2), 1))], 1)
    points_T3 = homogeneous @ np.linalg.inv(first.intrinsics_33).T * depth_T[:, None]
    inside_T = _inside(points_T2, first.size, border)
    pixels, visible, depths = [points_T2], [np.isfinite(depth_T) & inside_T], [depth_T]
    for view, pose_44 in zip(scene.views[1:], scene.poses[1:], strict=True):
        moved_T3 = (points_T3 - pose_44[:3, 3]) @ pose_44[:3, :3]
        with np.errstate(invalid="ignore"):
            pixels_T2 = project(moved_T3, np.asarray(view.intrinsics_33, np.float64))
            seen_T = visible[0] & _inside(pixels_T2, view.size, border)
        if occluder:
            margin = agree + 2 * (first.depth_noise + view.depth_noise)
            seen_T[seen_T] = _agrees(view, pixels_T2[seen_T], moved_T3[seen_T, 2], margin, neighbours)
        pixels.append(pixels_T2)
        visible.append(seen_T)
        depths.append(moved_T3[:, 2])
    return Tracks(np.stack(pixels), np.stack(visible), np.stack(depths))


def _inside(pixels_T2: np.ndarray, size: tuple[int, int], border: float) -> np.ndarray:
    """Whether a point is in the image, at least ``border`` pixels from its edge; NaN is not."""
    edge = np.array([size[1], size[0]]) - 0.5 - border
    inside_T2: np.ndarray = (pixels_T2 >= border - 0.5) & (pixels_T2 < edge)
    return inside_T2[:, 0] & inside_T2[:, 1]


def _agrees(
    view: Cues, pixels_n2: np.ndarray, depth_n: np.ndarray, margin: float, neighbours: Literal["any", "all"]
) -> np.ndarray:
    """Whether one of the four pixels around each point has a depth that is the point's own, or all of them have."""
    height, width = view.size
    column_n, row_n = np.floor(pixels_n2).astype(int).T
    found = []
    for right, down in _NEIGHBOURS:
        column, row = np.clip(column_n + right, 0, width - 1), np.clip(row_n + down, 0, height - 1)
        measured = view.depth_HW[row, column].astype(np.float64)
        near = np.abs(measured - depth_n) < margin * np.minimum(measured, depth_n)
        found.append(view.valid_HW[row, column] & near)
    agreed_n: np.ndarray = np.any(found, 0) if neighbours == "any" else np.all(found, 0)
    return agreed_n


def rotation_angle(pose_44: np.ndarray) -> float:
    """Angle in degrees by which a camera is turned, from a pose or a rotation matrix.

    Example:
        >>> rotation_angle(np.eye(4))
        0.0
    """
    cosine = (np.trace(np.asarray(pose_44)[:3, :3]) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
