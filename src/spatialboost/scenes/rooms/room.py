"""The description of a procedural room: its materials, things, lights and camera.

World frame: x right, y down, z forward, metres; the floor is y = 0 and the room's middle is x = z = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Material:
    """Appearance of a surface: two shades of one named colour in a solid texture.

    Attributes:
        colour: name in the palette.
        texture: one of ``raycast.TEXTURES``.
        first: sRGB of the main shade.
        second: sRGB of the other shade.
        axis: direction and frequency of the stripes, in periods per metre.
        frequency: number of cells of the pattern per metre along x, y, z.
        phase: shift of the pattern.
        gloss: strength of the highlight.
    """

    colour: str
    texture: str
    first: RGB
    second: RGB
    axis: RGB
    frequency: RGB
    phase: RGB
    gloss: float = 0.0


@dataclass(frozen=True)
class Thing:
    """One object: a yaw-rotated box (or panel, a thin box on a wall), a sphere or an upright cylinder.

    Attributes:
        shape: "box", "panel", "sphere" or "cylinder".
        centre: world position, metres.
        half: half extents along its own x, y, z, metres.
        yaw: rotation about the vertical, radians.
        material: its appearance.
        place: "floor", "wall", "box" or "cylinder": what it stands or hangs on.
        size: "tall", "flat", "small", "large" or "".
        description: noun phrase for it; unique in its room.
        aliases: further descriptions that say nothing about its size and place; unique in its room.
    """

    shape: str
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    yaw: float
    material: Material
    place: str
    size: str = ""
    description: str = ""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Light:
    """A lamp under the ceiling; ``radius`` above zero makes its shadows soft."""

    position: tuple[float, float, float]
    colour: RGB
    radius: float


@dataclass(frozen=True)
class Room:
    """A room with its things, its lights and one camera, all from one seed.

    Attributes:
        seed: seed of all random numbers of the room.
        size: width (x), height (y), depth (z), metres.
        sides: materials of -x, +x, ceiling, floor, -z, +z.
        things: all things in the room, visible or not.
        lights: the lamps, at least one.
        ambient: strength of the ambient light.
        pose_44: camera to world.
        fov: horizontal field of view, degrees.
        noise: standard deviation of the sensor's noise, in [0, 1].
    """

    seed: int
    size: tuple[float, float, float]
    sides: tuple[Material, ...]
    things: tuple[Thing, ...]
    lights: tuple[Light, ...]
    ambient: float
    pose_44: np.ndarray
    fov: float
    noise: float


def look(position: Sequence[float], yaw: float, pitch: float, roll: float = 0.0) -> np.ndarray:
    """Camera-to-world matrix of a camera at ``position``; yaw to the right, pitch downwards, radians."""
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (yaw, -pitch, roll))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    pose_44 = np.eye(4)
    pose_44[:3, :3] = about_y @ about_x @ about_z
    pose_44[:3, 3] = position
    return pose_44


def scale(colour: RGB, by: float) -> RGB:
    """Multiply each channel of a colour by a number."""
    return colour[0] * by, colour[1] * by, colour[2] * by
