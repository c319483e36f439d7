"""Further cameras in a room: a step aside from the first one, looking at the same place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spatialboost.scenes.rooms.room import Room, Thing, look

_FAR = 0.55  # share of the way from the camera to the room's end at which all cameras look
_STEP = (1.1, 0.35, 0.7)  # metres that a camera may be away from the first one: aside, up or down, forwards
_LEAST_STEP = 0.3  # metres aside
_FROM_SIDES = 0.2  # metres between a camera and walls, floor and ceiling
_FROM_THINGS = 0.3  # metres between a camera and a thing
_TRIES = 40


def sample_poses(room: Room, num: int) -> list[np.ndarray]:
    """Camera-to-world matrices of several cameras in a room, the room's own first.

    Example:
        >>> from spatialboost.scenes.rooms.sampling import sample_room
        >>> room = sample_room(3)
        >>> first, second = sample_poses(room, 2)
        >>> bool((first == room.pose_44).all()), bool((first == second).all())
        (True, False)

    The same room always gives the same cameras, and the first ones of many are those of few.

    Args:
        room: from ``sample_room``.
        num: how many, the first included.
    """
    first_44 = room.pose_44
    away = _FAR * (room.size[2] / 2 - first_44[2, 3])
    target = first_44[:3, 3] + first_44[:3, 2] * away
    return [first_44, *(_sample_pose(room, target, number) for number in range(1, num))]


def _sample_pose(room: Room, target: np.ndarray, number: int) -> np.ndarray:
    """A camera that looks at the target; steps become shorter where there is no room for them."""
    rng = np.random.default_rng([room.seed, number, 0x71E3])
    right, _, forward = room.pose_44[:3, :3].T
    position = room.pose_44[:3, 3]
    for left in range(_TRIES, 0, -1):
        aside = rng.choice([-1.0, 1.0]) * rng.uniform(_LEAST_STEP, _STEP[0])
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
    """No thing is so near that it would hide everything; a thing is taken for the cylinder around it."""
    for thing in things:
        beside = np.hypot(position[0] - thing.centre[0], position[2] - thing.centre[2])
        above = abs(position[1] - thing.centre[1])
        if beside < np.hypot(thing.half[0], thing.half[2]) + _FROM_THINGS and above < thing.half[1] + _FROM_THINGS:
            return False
    return True
