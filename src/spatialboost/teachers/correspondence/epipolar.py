"""Negatives by epipolar distance: places in another view that cannot be the match of a point."""

from __future__ import annotations

import numpy as np

from spatialboost.scenes.camera import to_normalised
from spatialboost.scenes.scene import Scene

# Shape legend: F views, T points, E places for each point.

SHIFT = 0.5  # a place is at most this share of the image's size away from the point's own place in the first view


def sampson_distance(fundamental_33: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """First-order distance in pixels of pairs of pixels from the epipolar geometry of two views.

    Example:
        >>> sideways = np.array([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # a camera that moves along x: rows stay
        >>> sampson_distance(sideways, np.array([[3.0, 5.0]]), np.array([[9.0, 7.0]])).round(3).tolist()
        [1.414]

    Args:
        fundamental_33: ``second^T F first = 0`` for matches.
        first: ``(..., 2)``, (u, v) in the first view.
        second: ``(..., 2)``, (u, v) in the second view.
    """
    one = np.concatenate([first, np.ones_like(first[..., :1])], -1)
    two = np.concatenate([second, np.ones_like(second[..., :1])], -1)
    line_two, line_one = one @ fundamental_33.T, two @ fundamental_33
    along = (line_two[..., :2] ** 2).sum(-1) + (line_one[..., :2] ** 2).sum(-1)
    found: np.ndarray = np.abs((two * line_two).sum(-1)) / np.sqrt(np.maximum(along, 1e-12))
    return found


def fundamental_matrix(first_33: np.ndarray, second_33: np.ndarray, pose_44: np.ndarray) -> np.ndarray:
    """The fundamental matrix of two views.

    Args:
        first_33: intrinsics of the first view.
        second_33: intrinsics of the second view.
        pose_44: from the second camera's frame to the first one's.
    """
    turn_33, move_3 = pose_44[:3, :3].T, -pose_44[:3, :3].T @ pose_44[:3, 3]  # from the first frame to the second
    x, y, z = move_3
    cross_33 = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix: np.ndarray = np.linalg.inv(second_33).T @ cross_33 @ turn_33 @ np.linalg.inv(first_33)
    return matrix


def far_places(
    scene: Scene, pixels_T2: np.ndarray, count: int, distance: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Random places in each view after the first that are far from each point's epipolar line.

    Args:
        scene: The views.
        pixels_T2: Points of the first view.
        count: Places for each point and view.
        distance: Smallest Sampson distance in pixels.
        rng: Draws the places.

    Returns:
        ``(F, T, E, 2)``, (x, y) as shares of each view, and ``(F, T, E)``, whether the place lies in the image and is
        far enough; the first view has none.

    Source: the negative tracks of VGGT, which GASP's notes describe.
    """
    first = scene.views[0]
    shape = (len(scene.views), len(pixels_T2), count)
    places, valid = np.zeros((*shape, 2)), np.zeros(shape, bool)
    for i, (view, pose_44) in enumerate(zip(scene.views, scene.poses, strict=True)):
        if i == 0:
            continue
        size_2 = np.array([view.size[1], view.size[0]])
        start_T2 = to_normalised(pixels_T2, first.size) * size_2 - 0.5
        pixels_TE2 = start_T2[:, None] + rng.uniform(-SHIFT, SHIFT, (*shape[1:], 2)) * size_2
        matrix_33 = fundamental_matrix(first.intrinsics_33, view.intrinsics_33, pose_44)
        points_TE2 = np.broadcast_to(pixels_T2[:, None], pixels_TE2.shape)
        inside = ((pixels_TE2 >= -0.5) & (pixels_TE2 < size_2 - 0.5)).all(-1)
        moved = np.linalg.norm(pose_44[:3, 3]) > 1e-6  # a camera that only turns has no epipolar lines
        valid[i] = inside & (sampson_distance(matrix_33, points_TE2, pixels_TE2) > distance) & moved
        places[i] = to_normalised(pixels_TE2, view.size)
    return places, valid
