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
    """One model at its place.

    Attributes:
        use: the piece and its noun.
        mesh: its triangles.
        position: where the middle of its bottom is, metres.
        yaw: rotation about the vertical, radians. At 0 its front looks to -z.
        on: number of the thing that it stands on, or None for the floor, a wall or the ceiling.
        flat: factor of its height; below 1 for rugs, which are pressed flat.
    """

    use: Use
    mesh: Mesh
    position: tuple[float, float, float]
    yaw: float
    on: int | None = None
    flat: float = 1.0

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
    """A rotated rectangle on the floor with an interval of heights, metres.

    Attributes:
        x, z: its middle.
        half_x, half_z: half its sides, along its own axes.
        yaw: rotation about the vertical, radians.
        low, high: heights above the floor.
    """

    x: float
    z: float
    half_x: float
    half_z: float
    yaw: float
    low: float = 0.0
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
    """A wall, the floor, the ceiling or the ground: a texture that repeats.

    Attributes:
        texture: the image.
        tint: linear RGB that multiplies it.
        period: side of one repetition, metres.
        name: what it looks like, such as ``"wood"``.
    """

    texture: Texture
    tint: RGB
    period: float
    name: str


@dataclass(frozen=True)
class Opening:
    """A hole in a wall: side (0 = -x, 1 = +x, 4 = -z, 5 = +z, as in `rooms`), and its rectangle on the wall, metres.

    Attributes:
        side: number of the wall.
        along: from where to where, along x (sides 4, 5) or z (sides 0, 1).
        heights: from where to where above the floor.
    """

    side: int
    along: tuple[float, float]
    heights: tuple[float, float]


@dataclass(frozen=True)
class Lamp:
    """A light: a rectangle or disc around a position, or the sun.

    Attributes:
        position: its middle, metres; for the sun, the direction to it.
        spread: half its extent along x, y, z, metres; for the sun, of the direction.
        colour: linear RGB.
        sun: whether it is infinitely far away.
    """

    position: RGB
    spread: RGB
    colour: RGB
    sun: bool = False


@dataclass(frozen=True)
class Place:
    """A room or garden with its things, lights and cameras, all from one seed.

    Attributes:
        seed: seed of all random numbers.
        kind: ``"living room"``, ..., ``"garden"``.
        size: width (x), height (y), depth (z) in metres; of a garden, the part in which things are.
        surfaces: the six sides of a room in the order of `rooms`, or only the ground.
        things: the things.
        openings: holes in the walls.
        lamps: the lights.
        ambient: strength of the ambient light.
        sky: linear RGB of the sky at the zenith and at the horizon.
        poses: camera-to-world matrices.
        fov: horizontal field of view, degrees.
        noise: standard deviation of the sensor's noise, in [0, 1].
        problems: models that could not be used, and why.
    """

    seed: int
    kind: str
    size: tuple[float, float, float]
    surfaces: tuple[Surface, ...]
    things: tuple[Thing, ...]
    openings: tuple[Opening, ...]
    lamps: tuple[Lamp, ...]
    ambient: float
    sky: tuple[RGB, RGB]
    poses: tuple[np.ndarray, ...] = ()
    fov: float = 65.0
    noise: float = 0.0
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def outdoors(self) -> bool:
        """Whether there are no walls."""
        return len(self.surfaces) == 1
