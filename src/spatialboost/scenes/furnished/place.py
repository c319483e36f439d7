"""The description of a furnished place: a room or a garden with its things, openings, lights and cameras.

World frame: x right, y down, z forward, metres; the floor is y = 0 and the middle is x = z = 0.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field

import numpy as np

from spatialboost.scenes.furnished.meshes import Mesh
from spatialboost.scenes.furnished.roles import Use
from spatialboost.scenes.furnished.textures import Texture

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Thing:
    """One model at its place."""

    use: Use  # the piece and its noun
    mesh: Mesh  # its triangles
    position: tuple[float, float, float]  # where the middle of its bottom is, metres
    yaw: float  # rotation about the vertical, radians. At 0 its front looks to -z.
    on: int | None = None  # number of the thing that it stands on, or None for the floor, a wall or the ceiling
    flat: float = 1.0  # factor of its height; below 1 for rugs, which are pressed flat

    @property
    def size(self) -> tuple[float, float, float]:
        """Width, height, depth in metres, along its own axes."""
        width, height, depth = self.mesh.size
        return width, height * self.flat, depth

    def footprint(self, margin: float = 0.0) -> Footprint:
        """Its outline on the floor, and the heights between which it is."""
        width, height, depth = self.size
        x, y, z = self.position
        return Footprint(x, z, width / 2 + margin, depth / 2 + margin, self.yaw, -y, -y + height)


@dataclass(frozen=True)
class Footprint:
    """A rotated rectangle on the floor with an interval of heights, metres."""

    x: float  # its middle
    z: float
    half_x: float  # half its sides, along its own axes
    half_z: float
    yaw: float  # rotation about the vertical, radians
    low: float = 0.0  # heights above the floor
    high: float = 2.0

    @functools.cached_property
    def corners(self) -> np.ndarray:
        """``(4, 2)``: x and z of the corners."""
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        across = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (self.half_x, self.half_z)
        return across @ np.array([[cos, -sin], [sin, cos]]) + (self.x, self.z)

    def overlaps(self, other: Footprint) -> bool:
        """Whether two things would be inside of each other: no line separates their rectangles."""
        if self.low >= other.high - 1e-6 or other.low >= self.high - 1e-6:
            return False
        x, z = other.x - self.x, other.z - self.z
        reach = math.hypot(self.half_x, self.half_z) + math.hypot(other.half_x, other.half_z)
        if math.hypot(x, z) >= reach:
            return False
        turn = other.yaw - self.yaw
        cos, sin = abs(math.cos(turn)), abs(math.sin(turn))
        for mine, theirs in ((self, other), (other, self)):
            along, aside = math.cos(mine.yaw), math.sin(mine.yaw)
            across = mine.half_x + theirs.half_x * cos + theirs.half_z * sin
            deep = mine.half_z + theirs.half_x * sin + theirs.half_z * cos
            if abs(x * along - z * aside) >= across - 1e-9 or abs(x * aside + z * along) >= deep - 1e-9:
                return False
        return True

    @property
    def reach(self) -> tuple[float, float]:
        """How far it goes from the middle of the floor, along x and z."""
        cos, sin = abs(math.cos(self.yaw)), abs(math.sin(self.yaw))
        return (
            abs(self.x) + self.half_x * cos + self.half_z * sin,
            abs(self.z) + self.half_x * sin + self.half_z * cos,
        )


@dataclass(frozen=True)
class Surface:
    """A wall, the floor, the ceiling or the ground: a texture that repeats."""

    texture: Texture  # the image
    tint: RGB  # linear RGB that multiplies it
    period: float  # side of one repetition, metres
    name: str  # what it looks like, such as "wood"


@dataclass(frozen=True)
class Opening:
    """A hole in a wall: side (0 = -x, 1 = +x, 4 = -z, 5 = +z, as in `rooms`), and its rectangle on the wall, metres."""

    side: int  # number of the wall
    along: tuple[float, float]  # from where to where, along x (sides 4, 5) or z (sides 0, 1)
    heights: tuple[float, float]  # from where to where above the floor


@dataclass(frozen=True)
class Lamp:
    """A light: a rectangle or disc around a position, or the sun."""

    position: RGB  # its middle, metres; for the sun, the direction to it
    spread: RGB  # half its extent along x, y, z, metres; for the sun, of the direction
    colour: RGB  # linear RGB
    sun: bool = False  # whether it is infinitely far away


@dataclass(frozen=True)
class Place:
    """A room or garden with its things, lights and cameras, all from one seed."""

    seed: int  # seed of all random numbers
    kind: str  # "living room", ..., "garden"
    # width (x), height (y), depth (z) in metres; of a garden, the part in which things are
    size: tuple[float, float, float]
    surfaces: tuple[Surface, ...]  # the six sides of a room in the order of `rooms`, or only the ground
    things: tuple[Thing, ...]  # the things
    openings: tuple[Opening, ...]  # holes in the walls
    lamps: tuple[Lamp, ...]  # the lights
    ambient: float  # strength of the ambient light
    sky: tuple[RGB, RGB]  # linear RGB of the sky at the zenith and at the horizon
    poses: tuple[np.ndarray, ...] = ()  # camera-to-world matrices
    fov: float = 65.0  # horizontal field of view, degrees
    noise: float = 0.0  # standard deviation of the sensor's noise, in [0, 1]
    problems: dict[str, str] = field(default_factory=dict)  # models that could not be used, and why

    @property
    def outdoors(self) -> bool:
        """Whether there are no walls."""
        return len(self.surfaces) == 1
