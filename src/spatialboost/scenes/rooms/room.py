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
    """Appearance of a surface: two shades of one named colour in a solid texture."""

    colour: str  # name in the palette
    texture: str  # one of raycast.TEXTURES
    first: RGB  # sRGB of the main shade
    second: RGB  # sRGB of the other shade
    axis: RGB  # direction and frequency of the stripes, in periods per metre
    frequency: RGB  # number of cells of the pattern per metre along x, y, z
    phase: RGB  # shift of the pattern
    gloss: float = 0.0  # strength of the highlight


@dataclass(frozen=True)
class Thing:
    """One object: a yaw-rotated box (or panel, a thin box on a wall), a sphere or an upright cylinder."""

    shape: str  # "box", "panel", "sphere" or "cylinder"
    centre: tuple[float, float, float]  # world position, metres
    half: tuple[float, float, float]  # half extents along its own x, y, z, metres
    yaw: float  # rotation about the vertical, radians
    material: Material  # its appearance
    place: str  # "floor", "wall", "box" or "cylinder": what it stands or hangs on
    size: str = ""  # "tall", "flat", "small", "large" or ""
    description: str = ""  # noun phrase for it; unique in its room
    aliases: tuple[str, ...] = ()  # further descriptions that say nothing about its size and place; unique in its room


@dataclass(frozen=True)
class Light:
    """A lamp under the ceiling; ``radius`` above zero makes its shadows soft."""

    position: tuple[float, float, float]
    colour: RGB
    radius: float


@dataclass(frozen=True)
class Room:
    """A room with its things, its lights and one camera, all from one seed."""

    seed: int  # seed of all random numbers of the room
    size: tuple[float, float, float]  # width (x), height (y), depth (z), metres
    sides: tuple[Material, ...]  # materials of -x, +x, ceiling, floor, -z, +z
    things: tuple[Thing, ...]  # all things in the room, visible or not
    lights: tuple[Light, ...]  # the lamps, at least one
    ambient: float  # strength of the ambient light
    pose_44: np.ndarray  # camera to world
    fov: float  # horizontal field of view, degrees
    noise: float  # standard deviation of the sensor's noise, in [0, 1]


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
