"""Find which way is up: the normal of the floor, the large level plane below everything that the views show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from spatialboost.scenes.cues import BAD_ITEM, Cues
from spatialboost.scenes.extract.protocol import Addition, PartialCues
from spatialboost.scenes.extract.surfaces import measure_surface
from spatialboost.scenes.sources import resize_cues

# Shape legend: N = points of all views.

_MAX_VIEWS = 24  # of a sequence; evenly spaced
_EDGE = 60  # pixels, shorter edge of the depth maps from which normals are computed
_TILT = 40.0  # degrees: how far a camera is tilted against gravity, at most
_CONE = 8.0  # degrees: normals in it belong to one direction
_APART = 20.0  # degrees: two directions farther apart than this are different surfaces
_THICKNESS = 0.06  # metres, half the thickness of the layer that holds the floor
_MIN_FLOOR = 0.05  # fraction of the points that lie on the floor, at least; of a single view, twice as many
_MAX_BELOW = 0.02  # fraction of the points that may lie below the floor: noise, stairs
_MAX_RIVAL = 0.5  # another surface that could be the floor has at most this fraction of the floor's points
_CANDIDATES = 400


def find_up(views: Sequence[Cues]) -> np.ndarray | None:
    """Find the direction up from the floor that views of one place show.

    Example:
        >>> from spatialboost.scenes.rooms import Rooms
        >>> scene = Rooms(1, size=64, views=2)[0]
        >>> bool(find_up(scene.views)[1] < -0.99)  # the y axis of these rooms points down
        True

    The normals of all depth maps are collected in the frame of the poses. The floor is the plane with the most points
    that is less than 40 degrees from level for the cameras and that has almost no points below it.

    Args:
        views: views with poses in one frame, or a single view. A single view without a pose has its own camera's frame.

    Returns:
        float64 ``(3,)`` of length 1, in the frame of the poses; None if there is no such plane, or if another plane
        could be the floor as well.
    """
    points_N3, normals_N3, camera_up_3 = _collect(views)
    length = np.linalg.norm(camera_up_3)
    if length < np.cos(np.radians(_TILT)):  # the cameras do not agree on which side is up
        return None
    camera_up_3 = camera_up_3 / length
    inside, apart = np.cos(np.radians(_CONE)), np.cos(np.radians(_APART))
    upward_N3 = normals_N3[normals_N3 @ camera_up_3 > np.cos(np.radians(_TILT))]
    fewest = max(12, _MIN_FLOOR * (2 if len(views) == 1 else 1) * len(points_N3))
    if len(upward_N3) < fewest:
        return None
    found: list[tuple[int, np.ndarray]] = []  # number of points, normal
    for candidate_3 in upward_N3[:: max(1, len(upward_N3) // _CANDIDATES)]:
        if any(candidate_3 @ up_3 > apart for _, up_3 in found):
            continue
        up_3 = candidate_3
        for _ in range(5):
            alike_N = normals_N3 @ up_3 > inside
            if not alike_N.any():
                break
            up_3 = normals_N3[alike_N].mean(0)
            up_3 = up_3 / np.linalg.norm(up_3)
        found.append((_count_on_floor(points_N3, normals_N3 @ up_3 > inside, up_3), up_3))
    found.sort(key=lambda entry: -entry[0])
    count, up_3 = found[0]
    rival = next((other for other, normal in found[1:] if normal @ up_3 < apart), 0)
    return up_3 if count >= fewest and rival <= _MAX_RIVAL * count else None


def find_up_of_walk(read: Callable[[int], Cues], num: int) -> np.ndarray | None:
    """`find_up` for a sequence of ``num`` views with poses: from at most 24, evenly spaced. Bad ones are left out."""
    views = []
    for index in np.unique(np.linspace(0, num - 1, _MAX_VIEWS).round().astype(int)).tolist():
        try:
            views.append(read(index))
        except BAD_ITEM:
            continue
    return find_up(views) if views else None


def up_in_camera(up_3: np.ndarray | None, pose_44: np.ndarray | None) -> np.ndarray | None:
    """Rotate the direction up from the frame of the poses into a camera's frame; None if it is unknown.

    Example:
        >>> up_in_camera(np.array([0, 0, 2.0]), np.eye(4)).tolist()
        [0.0, 0.0, 1.0]
    """
    if up_3 is None or pose_44 is None:
        return up_3
    if not np.isfinite(pose_44).all():
        return None
    return pose_44[:3, :3].T @ (up_3 / np.linalg.norm(up_3))


class Gravity:
    """The extractor that finds the direction up of scenes from their floor. What a source knows already is kept."""

    kind, name = "reconstruction", "gravity"

    def __call__(self, views: Sequence[PartialCues], /) -> list[Addition]:
        """The direction up in each view of one scene; nothing where the floor is not clear."""
        if all(view.up_3 is not None for view in views):
            return [{} for _ in views]
        up_3 = find_up([view.to_cues() for view in views])
        return [
            {} if up_3 is None or view.up_3 is not None else {"up_3": up_in_camera(up_3, view.pose_44)}
            for view in views
        ]


def _collect(views: Sequence[Cues]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points and normals of all views in the frame of the poses, and the mean of the cameras' own upward directions."""
    points, normals, ups = [], [], []
    for view in views:
        small = replace(view, objects=())
        small = resize_cues(small, _EDGE) if min(view.size) > _EDGE else small
        surface = measure_surface(small, window=5)
        turn_33, place_3 = np.eye(3), np.zeros(3)
        if view.pose_44 is not None:
            pose_44 = np.asarray(view.pose_44, np.float64)
            turn_33, place_3 = pose_44[:3, :3], pose_44[:3, 3]
        points.append(surface.points_HW3[small.valid_HW] @ turn_33.T + place_3)
        normals.append(surface.normals_HW3[small.valid_HW] @ turn_33.T)
        ups.append(-turn_33[:, 1])
    return np.concatenate(points), np.concatenate(normals), np.mean(ups, 0)


def _count_on_floor(points_N3: np.ndarray, alike_N: np.ndarray, up_3: np.ndarray) -> int:
    """Number of points with this normal in the fullest level layer; 0 if too many points lie below this layer."""
    heights_N = points_N3 @ up_3
    alike = np.sort(heights_N[alike_N])
    if not alike.size:
        return 0
    counts = np.searchsorted(alike, alike + 2 * _THICKNESS, side="right") - np.arange(alike.size)
    fullest = int(counts.argmax())
    below = (heights_N < alike[fullest] - _THICKNESS).mean()
    return int(counts[fullest]) if below <= _MAX_BELOW else 0
