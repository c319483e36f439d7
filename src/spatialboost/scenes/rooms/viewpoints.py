"""The path of a camera through a room: from the room's own camera to a second one, and cameras between these two."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spatialboost.scenes.rooms.room import Room, Thing, look

# Axis of the path in the first camera's frame: its probability, and the shortest and the longest path in metres
_AXES = ((0.38, 0.35, 1.1), (0.14, 0.25, 0.7), (0.48, 0.35, 1.1))  # sideways, up or down, forwards or backwards
_ASIDE = 0.4  # largest step along each of the other two axes, as a fraction of the step along the first
_TURNS = (40.0, 9.0, 2.5)  # degrees, largest turn of the camera: sideways, up or down, about its optical axis
_FROM_SIDES = 0.2  # metres, minimum distance between a camera and walls, floor and ceiling
_FROM_THINGS = 0.3  # metres, minimum distance between a camera and a thing
_LEAST_SHARED = 0.3  # share of the room's sides in one image that are in the other image, too
_TRIES = 60
_ON_PATH = np.linspace(0, 1, 13)[1:]  # places at which a path is tested
_RAYS = 10  # rows and columns of rays with which the share is estimated


def sample_poses(room: Room, num: int) -> list[np.ndarray]:
    """Camera-to-world matrices of the cameras on a path through a room. The first is ``room.pose_44``.

    Example:
        >>> from spatialboost.scenes.rooms.sampling import sample_room
        >>> room = sample_room(3)
        >>> first, last = sample_poses(room, 2)
        >>> bool((first == room.pose_44).all()), bool((last == sample_poses(room, 4)[3]).all())
        (True, True)

    The same room always gives the same path; ``num`` cameras stand on it, evenly spaced. The path is clear of all
    things, and the last camera sees much of what the first one sees, and at least two things if the first does. The
    direction says nothing about the camera's turn, and each direction is as frequent as its opposite: a path is taken
    only if the opposite path, and each of both with the opposite turn, are possible in this room, too. Then one of the
    four is drawn.
    """
    if num == 1:
        return [room.pose_44]
    step_3, turns_3 = _sample_path(room)
    return [_pose_on_path(room, step_3, turns_3, part) for part in np.linspace(0, 1, num)]


def _sample_path(room: Room) -> tuple[np.ndarray, np.ndarray]:
    """The step in the first camera's frame, metres, and the turns (yaw, pitch, roll), radians.

    They become smaller until there is room for them.
    """
    rng = np.random.default_rng([room.seed, 0x71E4])
    chances, shortest, longest = np.array(_AXES).T
    for left in range(_TRIES, 0, -1):
        axis = int(rng.choice(3, p=chances))
        step_3 = rng.uniform(-_ASIDE, _ASIDE, 3)
        step_3[axis] = 1.0
        step_3 *= rng.uniform(shortest[axis], longest[axis]) * min(1.0, 2 * left / _TRIES)
        turns_3 = np.radians(rng.uniform(-1.0, 1.0, 3) * _TURNS) * left / _TRIES
        signs = rng.choice([-1.0, 1.0], 2)
        four = [(a * step_3, b * turns_3) for a in (-1, 1) for b in (-1, 1)]
        if left == 1 or all(_is_possible(room, *path) for path in four):
            break
    return signs[0] * step_3, signs[1] * turns_3


def _pose_on_path(room: Room, step_3: np.ndarray, turns_3: np.ndarray, part: float) -> np.ndarray:
    """The camera after this part of the path; exactly the room's own camera at 0."""
    pose_44 = room.pose_44.copy()
    if part:
        pose_44[:3, 3] += part * (room.pose_44[:3, :3] @ step_3)
        pose_44[:3, :3] = room.pose_44[:3, :3] @ look((0, 0, 0), *(part * turns_3))[:3, :3]
    return pose_44


def _is_possible(room: Room, step_3: np.ndarray, turns_3: np.ndarray) -> bool:
    """Whether all cameras on a path stand free, and the last one sees enough of what the first one sees."""
    places = [_pose_on_path(room, step_3, turns_3, part)[:3, 3] for part in _ON_PATH]
    if not all(_inside(place, room.size) and _clear(place, room.things) for place in places):
        return False
    last_44 = _pose_on_path(room, step_3, turns_3, 1.0)
    if _count_things(room, last_44) < min(2, _count_things(room, room.pose_44)):
        return False
    shares = _share_seen(room, room.pose_44, last_44), _share_seen(room, last_44, room.pose_44)
    return min(shares) >= _LEAST_SHARED


def _count_things(room: Room, pose_44: np.ndarray) -> int:
    """The number of things whose centre lies in the camera's square image."""
    if not room.things:
        return 0
    centres_T3 = (np.array([thing.centre for thing in room.things]) - pose_44[:3, 3]) @ pose_44[:3, :3]
    edge = np.tan(np.radians(room.fov) / 2)
    return int((np.abs(centres_T3[:, :2]) <= edge * centres_T3[:, 2:]).all(1).sum())


def _share_seen(room: Room, one_44: np.ndarray, other_44: np.ndarray) -> float:
    """The share of one camera's points on walls, floor and ceiling that lie in the other camera's square image."""
    edge = np.tan(np.radians(room.fov) / 2)
    x, y = np.meshgrid(*[np.linspace(-edge, edge, _RAYS)] * 2)
    rays_P3 = np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3) @ one_44[:3, :3].T
    width, height, depth = room.size
    low_3, high_3 = np.array([-width / 2, -height, -depth / 2]), np.array([width / 2, 0, depth / 2])
    with np.errstate(divide="ignore"):
        until_P3 = (np.where(rays_P3 > 0, high_3, low_3) - one_44[:3, 3]) / rays_P3
    points_P3 = one_44[:3, 3] + rays_P3 * until_P3.min(1, keepdims=True)
    seen_P3 = (points_P3 - other_44[:3, 3]) @ other_44[:3, :3]
    return float((np.abs(seen_P3[:, :2]) <= edge * seen_P3[:, 2:]).all(1).mean())


def _inside(position: np.ndarray, size: tuple[float, float, float]) -> bool:
    x, y, z = position
    width, height, depth = size
    across = abs(x) < width / 2 - _FROM_SIDES and abs(z) < depth / 2 - _FROM_SIDES
    return across and _FROM_SIDES - height < y < -_FROM_SIDES


def _clear(position: np.ndarray, things: Sequence[Thing]) -> bool:
    """Whether the camera keeps its distance from all things. Each is replaced by its bounding cylinder.

    Things on a wall do not count: a camera keeps its distance from the wall.
    """
    for thing in things:
        beside = np.hypot(position[0] - thing.centre[0], position[2] - thing.centre[2])
        above = abs(position[1] - thing.centre[1])
        if thing.place == "wall":
            continue
        if beside < np.hypot(thing.half[0], thing.half[2]) + _FROM_THINGS and above < thing.half[1] + _FROM_THINGS:
            return False
    return True
