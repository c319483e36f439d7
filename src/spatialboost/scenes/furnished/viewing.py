"""Place cameras as a person holds them: at eye height, level or a little downwards, where there is something to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from spatialboost.scenes.furnished.place import Footprint, Place
from spatialboost.scenes.rooms.room import look

_HEIGHTS = (1.2, 1.8)  # metres above the floor
_PITCH = (0.0, 25.0)  # degrees, downwards
_BODY = 0.28  # metres: half the width of the person with the camera
_CANDIDATES = 24
_NEAREST = 0.9  # metres: nothing that is as high as the camera is closer in front of it
_STEP = (0.25, 0.6)  # metres, from one view to the next


def sample_cameras(place: Place, rng: np.random.Generator, views: int) -> Place:
    """The place with cameras: the first sees much of it; the others follow on a path and look at the same things."""
    outlines = [(thing, thing.footprint()) for thing in place.things]
    standing = [outline for thing, outline in outlines if thing.on is None]
    best, target = _first_camera(place, rng, standing, [outline for _, outline in outlines])
    poses = [best]
    path_rng = np.random.default_rng([place.seed, 0x9A7])  # so that more views do not change the first
    for _ in range(1, views):
        poses.append(_next_camera(place, path_rng, poses, target, standing))
    return replace(place, poses=tuple(poses))


def _first_camera(
    place: Place, rng: np.random.Generator, standing: Sequence[Footprint], outlines: Sequence[Footprint]
) -> tuple[np.ndarray, np.ndarray]:
    """The best of some random cameras, and the point at which it looks."""
    centres = _centres(place)
    reach = np.array([place.size[0], place.size[2]]) / 2 - (0.35 if not place.outdoors else 0.0)
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for _ in range(_CANDIDATES):
        spot = rng.uniform(-1, 1, 2) * reach
        along = int(rng.integers(2))
        spot[along] = np.sign(spot[along] or 1.0) * reach[along] * rng.uniform(0.72, 1.0)  # near a wall
        height = rng.uniform(*_HEIGHTS)
        focus = centres[int(rng.integers(len(centres)))] * 0.5 + centres.mean(0) * 0.5
        position = np.array([spot[0], -height, spot[1]])
        pose = _look_at(position, focus, rng.uniform(-6, 6), rng.normal(0.0, 0.8))
        if not _is_free(place, position, standing):
            continue
        score = _count_in_view(place, pose, centres) - 3.0 * _is_hidden(pose, outlines) + 0.5 * rng.random()
        if best is None or score > best[0]:
            best = score, pose, focus
    if best is None:  # a crowded place: from the middle, above the things
        position = np.array([0.0, -_HEIGHTS[1], 0.0])
        return _look_at(position, centres.mean(0) + 0.1, 0.0, 0.0), centres.mean(0)
    return best[1], best[2]


def _next_camera(
    place: Place,
    rng: np.random.Generator,
    poses: list[np.ndarray],
    target: np.ndarray,
    standing: Sequence[Footprint],
) -> np.ndarray:
    """A step from the last camera, most often in the direction of the last step, with the same target."""
    last = poses[-1][:3, 3]
    heading = poses[-1][:3, 3] - poses[-2][:3, 3] if len(poses) > 1 else poses[-1][:3, 0] * rng.choice([-1.0, 1.0])
    angle = float(np.arctan2(heading[2], heading[0]))
    for attempt in range(40):
        turn = rng.normal(0.0, 0.4 + 0.1 * attempt)
        step = rng.uniform(*_STEP) * (1.0 if attempt < 20 else 0.4)
        position = last + np.array([step * np.cos(angle + turn), rng.uniform(-0.05, 0.05), step * np.sin(angle + turn)])
        position[1] = np.clip(position[1], -_HEIGHTS[1], -_HEIGHTS[0])
        if _is_free(place, position, standing) and np.hypot(*(position - target)[[0, 2]]) > 0.8:
            return _look_at(position, target, rng.uniform(-4, 4), rng.normal(0.0, 0.8))
    return _look_at(last, target, rng.uniform(-10, 10), 0.0)


def _look_at(position: np.ndarray, target: np.ndarray, aside: float, roll: float) -> np.ndarray:
    """A camera at a position that looks towards a target, with its pitch kept to what people do."""
    x, y, z = target - position
    pitch = np.clip(np.degrees(np.arctan2(y, np.hypot(x, z))), *_PITCH)
    return look(position.tolist(), np.arctan2(x, z) + np.radians(aside), np.radians(pitch), np.radians(roll))


def _centres(place: Place) -> np.ndarray:
    """``(K, 3)``: the middle of each thing; of the place if there is none."""
    things = [thing for thing in place.things if thing.use.role not in ("rug", "ceiling", "tree", "door")]
    if not things:
        return np.array([[0.0, -0.5, 0.0]])
    return np.array([np.add(thing.position, (0.0, -thing.size[1] / 2, 0.0)) for thing in things])


def _is_free(place: Place, position: np.ndarray, standing: Sequence[Footprint]) -> bool:
    """Whether a person with the camera can stand here."""
    body = Footprint(position[0], position[2], _BODY, _BODY, 0.0, 0.03, -position[1] + 0.15)
    if not place.outdoors:
        width, _, depth = place.size
        if abs(position[0]) > width / 2 - 0.2 or abs(position[2]) > depth / 2 - 0.2:
            return False
    return not any(outline.overlaps(body) for outline in standing)


def _count_in_view(place: Place, pose_44: np.ndarray, centres: np.ndarray) -> float:
    """How many things are in the image, those at a distance at which they can be seen well."""
    local = (centres - pose_44[:3, 3]) @ pose_44[:3, :3]
    limit = np.tan(np.radians(place.fov) / 2) * 0.9
    z = local[:, 2]
    seen = (z > 0.9) & (np.abs(local[:, 0]) < limit * z) & (np.abs(local[:, 1]) < limit * z)
    far = 7.0 if not place.outdoors else 14.0
    return float((seen * np.where(z < far, 1.0, 0.3)).sum())


def _is_hidden(pose_44: np.ndarray, outlines: Sequence[Footprint]) -> float:
    """1 if a thing as high as the camera is close in front of it."""
    position, forward = pose_44[:3, 3], pose_44[:3, 2]
    yaw = float(np.arctan2(forward[0], forward[2]))
    middle = position + forward * _NEAREST / 2
    front = Footprint(middle[0], middle[2], 0.35, _NEAREST / 2, yaw, -position[1] - 0.5, -position[1] + 0.3)
    return float(any(outline.overlaps(front) for outline in outlines))
