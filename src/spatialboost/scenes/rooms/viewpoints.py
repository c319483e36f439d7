"""Place more cameras in a room: beside the first camera, all looking at the same point."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spatialboost.scenes.rooms.room import Room, Thing, look

_TARGET = 0.55  # the point at which all cameras look: fraction of the way from the first camera to the back of the room
_STEP = (1.1, 0.35, 0.7)  # metres, maximum distance from the first camera: sideways, up or down, forwards
_MIN_STEP = 0.3  # metres, minimum step sideways before steps are shortened
_FROM_SIDES = 0.2  # metres, minimum distance between a camera and walls, floor and ceiling
_FROM_THINGS = 0.3  # metres, minimum distance between a camera and a thing
_TRIES = 40


def sample_poses(room: Room, num: int) -> list[np.ndarray]:
    """Camera-to-world matrices of several cameras in a room. The first is ``room.pose_44``.

    Example:
        >>> from spatialboost.scenes.rooms.sampling import sample_room
        >>> room = sample_room(3)
        >>> first, second = sample_poses(room, 2)
        >>> bool((first == room.pose_44).all()), bool((first == second).all())
        (True, False)

    The same room always gives the same cameras. With a larger ``num`` the first cameras stay the same.

    Args:
        room: from ``sample_room``.
        num: number of cameras, including the first.
    """
    first_44 = room.pose_44
    away = _TARGET * (room.size[2] / 2 - first_44[2, 3])
    target = first_44[:3, 3] + first_44[:3, 2] * away
    return [first_44, *(_sample_pose(room, target, number) for number in range(1, num))]


def _sample_pose(room: Room, target: np.ndarray, number: int) -> np.ndarray:
    """A camera that looks at the target. The step from the first camera becomes shorter until there is room for it."""
    rng = np.random.default_rng([room.seed, number, 0x71E3])
    right, _, forward = room.pose_44[:3, :3].T
    position = room.pose_44[:3, 3]
    for left in range(_TRIES, 0, -1):
        aside = rng.choice([-1.0, 1.0]) * rng.uniform(_MIN_STEP, _STEP[0])
        step = aside * right + np.array([0.0, rng.uniform(-_STEP[1], _STEP[1]), 0.0])
        step = step + rng.uniform(0.0, _STEP[2]) * forward
        candidate = room.pose_44[:3, 3] + step * left / _TRIES
        if _inside(candidate, room.size) and _clear(candidate, room.things):
            position = candidate
            break
    x, y, z = target - position
    return look(position.tolist(), float(np.arctan2(x, z)), float(np.arctan2(y, np.hypot(x, z))))


def _inside(position: np.ndarray, size: tuple[float, float, float]) -> bool:
    x, y, z = position
    width, height, depth = size
    across = abs(x) < width / 2 - _FROM_SIDES and abs(z) < depth / 2 - _FROM_SIDES
    return across and _FROM_SIDES - height < y < -_FROM_SIDES


def _clear(position: np.ndarray, things: Sequence[Thing]) -> bool:
    """Whether the camera keeps its distance from all things. Each thing is replaced by its bounding cylinder."""
    for thing in things:
        beside = np.hypot(position[0] - thing.centre[0], position[2] - thing.centre[2])
        above = abs(position[1] - thing.centre[1])
        if beside < np.hypot(thing.half[0], thing.half[2]) + _FROM_THINGS and above < thing.half[1] + _FROM_THINGS:
            return False
    return True
