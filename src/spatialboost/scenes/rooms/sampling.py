"""Sample a room from a seed: walls, lights and a camera here, things in `furnishing`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.rooms.furnishing import sample_things
from spatialboost.scenes.rooms.materials import pick, sample_material
from spatialboost.scenes.rooms.room import Light, Room, look, scale

WALL_COLOURS = [*["white"] * 3, "grey", "yellow", "green", "blue", "pink", "orange", "cyan", "brown", "purple"]
FLOOR_COLOURS = [*["brown"] * 3, "grey", "grey", "white", "black", "green", "blue", "red", "orange"]


def sample_room(seed: int) -> Room:
    """Sample the full description of the room of a seed, without rendering it.

    Example:
        >>> room = sample_room(17)
        >>> 4 <= len(room.things) <= 9
        True
    """
    if seed < 0:
        raise SpatialBoostError(f"seed is {seed}, expected an integer of zero or more")
    rng = np.random.default_rng([seed, 0x5B])
    size = (rng.uniform(3.0, 6.5), rng.uniform(2.3, 3.2), rng.uniform(3.5, 8.0))
    wall = sample_material(
        rng, pick(rng, WALL_COLOURS), {"plain": 0.5, "striped": 0.17, "speckled": 0.18, "checkered": 0.15}, 0.45
    )
    accent = sample_material(rng, pick(rng, WALL_COLOURS), {"plain": 0.8, "striped": 0.2}, 0.45)
    floor = sample_material(
        rng, pick(rng, FLOOR_COLOURS), {"checkered": 0.35, "wooden": 0.3, "speckled": 0.2, "plain": 0.15}, 0.5
    )
    ceiling = sample_material(
        rng, pick(rng, ["white", "white", "grey", "yellow"]), {"plain": 0.8, "checkered": 0.2}, 0.8
    )
    sides = [wall, wall, ceiling, floor, wall, wall]
    if rng.random() < 0.4:
        sides[int(rng.choice([0, 1, 5]))] = accent
    pose_44 = _sample_pose(rng, size)
    fov = rng.uniform(50.0, 80.0)
    things = sample_things(rng, size, pose_44, fov, count=int(rng.integers(4, 10)), avoid=(wall.colour, floor.colour))
    lights = tuple(_sample_light(rng, size) for _ in range(int(rng.integers(1, 3))))
    strength = rng.uniform(0.9, 1.3) / len(lights)
    return Room(
        seed=seed,
        size=size,
        sides=tuple(sides),
        things=things,
        lights=tuple(replace(light, colour=scale(light.colour, strength)) for light in lights),
        ambient=rng.uniform(0.28, 0.5),
        pose_44=pose_44,
        fov=fov,
        noise=rng.uniform(0.0, 0.02),
    )


def _sample_pose(rng: np.random.Generator, size: tuple[float, float, float]) -> np.ndarray:
    """A camera near the front wall that looks roughly along the room and a little downwards."""
    width, _, depth = size
    position = (
        rng.uniform(-0.3, 0.3) * width,
        -rng.uniform(0.9, 2.0),
        -depth / 2 + rng.uniform(0.25, 0.25 + 0.22 * depth),
    )
    yaw = np.radians(rng.uniform(-28.0, 28.0)) - 0.25 * position[0] / width
    pitch = np.radians(rng.uniform(2.0, 12.0) + 8.0 * (-position[1] - 0.9))
    return look(position, yaw, pitch, np.radians(rng.normal(0.0, 1.0)))


def _sample_light(rng: np.random.Generator, size: tuple[float, float, float]) -> Light:
    width, height, depth = size
    position = (rng.uniform(-0.4, 0.4) * width, -height + rng.uniform(0.08, 0.35), rng.uniform(-0.4, 0.4) * depth)
    warmth = rng.uniform(-0.12, 0.12)
    return Light(position, (1.0 + warmth, 1.0, 1.0 - warmth), radius=float(rng.choice([0.0, 0.15, 0.3])))
