"""Procedural rooms: scenes with exact depth, masks, names and poses, made from a seed.

One seed is one room, whatever else is rendered beside it. World frame: x right, y down, z forward, metres; the floor
is y = 0 and the room's middle is x = z = 0.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes import raycast
from spatialboost.scenes.colours import PALETTE, paint
from spatialboost.scenes.cues import Cues, SceneObject

RGB = tuple[float, float, float]

SMALLEST_SHARE = 0.003  # of the pixels: what shows less of itself is not named
TEXTURE_WORDS = {
    "plain": "plain",
    "checkered": "checkered",
    "striped": "striped",
    "speckled": "speckled",
    "wooden": "wooden",
}
PLACE_WORDS = {"floor": "on the floor", "wall": "on the wall", "box": "on a box", "cylinder": "on a cylinder"}
# Rays at once: what fits the caches of a CPU core, and what keeps a GPU busy within about 2 GB.
RAYS_AT_ONCE = {"cpu": 1 << 14, "cuda": 1 << 22}


@dataclass(frozen=True)
class Material:
    """Looks of a surface: two shades of one named colour in a solid texture.

    Attributes:
        colour: name in the palette.
        texture: one of ``raycast.TEXTURES``.
        first: sRGB of the main shade.
        second: sRGB of the other shade.
        axis: direction and frequency of stripes, periods per metre.
        frequency: cells per metre along x, y, z.
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
        material: its looks.
        place: "floor", "wall", "box" or "cylinder": what it stands or hangs on.
        size: "tall", "flat", "small", "large" or "".
        description: what one would call it; unique in its room.
    """

    shape: str
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    yaw: float
    material: Material
    place: str
    size: str = ""
    description: str = ""


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
        seed: where everything comes from.
        size: width (x), height (y), depth (z), metres.
        sides: materials of -x, +x, ceiling, floor, -z, +z.
        things: everything that stands, lies or hangs in it, visible or not.
        lights: at least one.
        ambient: share of light that comes from everywhere.
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


# ----------------------------------------------------------------------------------------------------------------------
# Sampling
# ----------------------------------------------------------------------------------------------------------------------


def sample_room(seed: int) -> Room:
    """Everything there is to know about the room of a seed, before a single ray is cast.

    Example:
        >>> from spatialboost.scenes.synthetic import sample_room
        >>> room = sample_room(17)
        >>> 4 <= len(room.things) <= 9
        True
    """
    if seed < 0:
        raise SpatialBoostError(f"seed is {seed}, expected an integer of zero or more")
    rng = np.random.default_rng([seed, 0x5B])
    size = (rng.uniform(3.0, 6.5), rng.uniform(2.3, 3.2), rng.uniform(3.5, 8.0))
    wall = _sample_material(
        rng, _pick(rng, WALL_COLOURS), {"plain": 0.5, "striped": 0.17, "speckled": 0.18, "checkered": 0.15}, 0.45
    )
    accent = _sample_material(rng, _pick(rng, WALL_COLOURS), {"plain": 0.8, "striped": 0.2}, 0.45)
    floor = _sample_material(
        rng, _pick(rng, FLOOR_COLOURS), {"checkered": 0.35, "wooden": 0.3, "speckled": 0.2, "plain": 0.15}, 0.5
    )
    ceiling = _sample_material(
        rng, _pick(rng, ["white", "white", "grey", "yellow"]), {"plain": 0.8, "checkered": 0.2}, 0.8
    )
    sides = [wall, wall, ceiling, floor, wall, wall]
    if rng.random() < 0.4:
        sides[int(rng.choice([0, 1, 5]))] = accent
    pose_44 = _sample_pose(rng, size)
    fov = rng.uniform(50.0, 80.0)
    things = _sample_things(rng, size, pose_44, fov, count=int(rng.integers(4, 10)), avoid=(wall.colour, floor.colour))
    lights = tuple(_sample_light(rng, size) for _ in range(int(rng.integers(1, 3))))
    strength = rng.uniform(0.9, 1.3) / len(lights)
    return Room(
        seed=seed,
        size=size,
        sides=tuple(sides),
        things=things,
        lights=tuple(replace(light, colour=_scale(light.colour, strength)) for light in lights),
        ambient=rng.uniform(0.28, 0.5),
        pose_44=pose_44,
        fov=fov,
        noise=rng.uniform(0.0, 0.02),
    )


WALL_COLOURS = [
    "white",
    "white",
    "white",
    "grey",
    "yellow",
    "green",
    "blue",
    "pink",
    "orange",
    "cyan",
    "brown",
    "purple",
]
FLOOR_COLOURS = ["brown", "brown", "brown", "grey", "grey", "white", "black", "green", "blue", "red", "orange"]


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _scale(colour: RGB, by: float) -> RGB:
    return colour[0] * by, colour[1] * by, colour[2] * by


def _sample_material(
    rng: np.random.Generator, colour: str, textures: dict[str, float], coarse: float, pale: float = 0.0
) -> Material:
    """``coarse`` is the typical size of the pattern in metres."""
    texture = str(rng.choice(list(textures), p=np.array(list(textures.values())) / sum(textures.values())))
    first = paint(colour, rng)
    if rng.random() < pale:
        first = tuple(np.clip(0.75 * np.array(first) + 0.25, 0, 1).tolist())
    # The other shade stays in the same hue so that the colour's name holds.
    shade = np.array(first)
    dark = shade * rng.uniform(0.45, 0.65) if colour != "black" else shade + rng.uniform(0.12, 0.2)
    light = shade + (1.0 - shade) * rng.uniform(0.4, 0.6) if colour not in ("white", "brown") else dark
    second = light if texture in ("striped", "checkered", "speckled") and rng.random() < 0.5 else dark
    period = coarse * rng.uniform(0.6, 1.5)
    axis = {0: (1.0, 0.0, 0.0), 1: (0.0, 1.0, 0.0), 2: (0.7, 0.7, 0.0), 3: (0.0, 0.0, 1.0)}[int(rng.integers(4))]
    if coarse < 0.3 and axis[2]:  # stripes across the depth would be invisible from the front of a panel
        axis = (0.0, 1.0, 0.0)
    frequency = np.full(3, 1.0 / period)
    if texture == "speckled":
        frequency *= 3.0
    if texture == "wooden":  # stretched along one direction: grain
        frequency = np.array([0.35, 1.2, 1.2]) / period
        frequency = frequency if rng.random() < 0.5 else frequency[::-1]
    phase = rng.uniform(0.0, 40.0, 3)
    return Material(
        colour=colour,
        texture=texture,
        first=first,
        second=tuple(second.tolist()),
        axis=_scale(axis, 1.0 / period),
        frequency=tuple(frequency.tolist()),
        phase=tuple(phase.tolist()),
        gloss=float(rng.choice([0.0, 0.0, 0.25, 0.5])) if coarse < 0.3 else 0.0,
    )


def _sample_pose(rng: np.random.Generator, size: tuple[float, float, float]) -> np.ndarray:
    """Somewhere near the front wall, looking roughly along the room, tilted down a little."""
    width, _, depth = size
    position = (
        rng.uniform(-0.3, 0.3) * width,
        -rng.uniform(0.9, 2.0),
        -depth / 2 + rng.uniform(0.25, 0.25 + 0.22 * depth),
    )
    yaw = np.radians(rng.uniform(-28.0, 28.0)) - 0.25 * position[0] / width
    pitch = np.radians(rng.uniform(2.0, 12.0) + 8.0 * (-position[1] - 0.9))
    return look(position, yaw, pitch, np.radians(rng.normal(0.0, 1.0)))


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


def _sample_light(rng: np.random.Generator, size: tuple[float, float, float]) -> Light:
    width, height, depth = size
    position = (rng.uniform(-0.4, 0.4) * width, -height + rng.uniform(0.08, 0.35), rng.uniform(-0.4, 0.4) * depth)
    warmth = rng.uniform(-0.12, 0.12)
    return Light(position, (1.0 + warmth, 1.0, 1.0 - warmth), radius=float(rng.choice([0.0, 0.15, 0.3])))


def _sample_things(
    rng: np.random.Generator,
    size: tuple[float, float, float],
    pose_44: np.ndarray,
    fov: float,
    count: int,
    avoid: tuple[str, str],
) -> tuple[Thing, ...]:
    things: list[Thing] = []
    for _ in range(40 * count):
        if len(things) == count:
            break
        shape = str(rng.choice(["box", "sphere", "cylinder", "panel"], p=[0.4, 0.22, 0.26, 0.12]))
        half = _sample_half(rng, shape)
        if shape == "panel":
            placed = _hang(rng, size, half)
            place = "wall"
        elif things and rng.random() < 0.3:
            placed, place, half = _stack(rng, size, things, half)
        else:
            placed = _stand(rng, size, pose_44, fov, half)
            place = "floor"
        if placed is None:
            continue
        centre, yaw = placed
        if not _fits(size, pose_44, things, shape, centre, half, place):
            continue
        colour = _pick(rng, [name for name in PALETTE if name not in avoid])
        textures = {"plain": 0.4, "striped": 0.2, "checkered": 0.2, "speckled": 0.2}
        if colour == "brown":
            textures["wooden"] = 0.6
        material = _sample_material(rng, colour, textures, coarse=float(np.clip(0.55 * max(half), 0.1, 0.28)))
        thing = Thing(
            shape, centre, half, yaw if shape in ("box", "panel") else 0.0, material, place, _size_word(shape, half)
        )
        if all(_traits(thing) != _traits(other) for other in things):
            things.append(thing)
    return _describe(rng, things)


def _sample_half(rng: np.random.Generator, shape: str) -> tuple[float, float, float]:
    if shape == "sphere":
        radius = rng.uniform(0.1, 0.42)
        return radius, radius, radius
    if shape == "panel":
        return rng.uniform(0.2, 0.6), rng.uniform(0.2, 0.5), 0.025
    if shape == "cylinder":
        radius = rng.uniform(0.1, 0.36)
        return radius, radius * rng.uniform(0.35, 1.3) if rng.random() < 0.5 else rng.uniform(0.35, 0.9), radius
    kind = rng.integers(3)
    if kind == 0:  # about a cube
        edge = rng.uniform(0.12, 0.45)
        return edge * rng.uniform(0.8, 1.2), edge * rng.uniform(0.8, 1.2), edge * rng.uniform(0.8, 1.2)
    if kind == 1:  # a cupboard
        return rng.uniform(0.15, 0.4), rng.uniform(0.45, 0.95), rng.uniform(0.15, 0.4)
    return rng.uniform(0.3, 0.8), rng.uniform(0.08, 0.3), rng.uniform(0.25, 0.5)  # a chest, a low table


def _size_word(shape: str, half: tuple[float, float, float]) -> str:
    x, y, z = half
    if shape in ("box", "cylinder") and y > 1.7 * max(x, z):
        return "tall"
    if shape in ("box", "cylinder") and y < 0.45 * min(x, z):
        return "flat"
    if max(half) < 0.2:
        return "small"
    if max(half) > 0.36:
        return "large"
    return ""


Placed = tuple[tuple[float, float, float], float] | None


def _stand(
    rng: np.random.Generator, size: tuple[float, float, float], pose_44: np.ndarray, fov: float, half: Sequence[float]
) -> Placed:
    """On the floor, at a random distance and angle within the camera's view."""
    distance = rng.uniform(1.1, 6.5)
    angle = np.arctan2(pose_44[0, 2], pose_44[2, 2]) + np.radians(rng.uniform(-0.46, 0.46) * fov)
    x, z = pose_44[0, 3] + distance * np.sin(angle), pose_44[2, 3] + distance * np.cos(angle)
    return (float(x), -half[1], float(z)), float(rng.uniform(0.0, np.pi))


def _hang(rng: np.random.Generator, size: tuple[float, float, float], half: Sequence[float]) -> Placed:
    width, height, depth = size
    y = -rng.uniform(1.1, max(1.15, height - half[1] - 0.15))
    wall = int(rng.integers(3))  # back, left, right: the camera has the fourth behind it
    if wall == 0:
        x = rng.uniform(-1, 1) * (width / 2 - half[0] - 0.05)
        return (float(x), float(y), depth / 2 - half[2]), 0.0
    z = rng.uniform(-0.2, 1) * (depth / 2 - half[0] - 0.05)
    return ((width / 2 - half[2]) * (1 if wall == 1 else -1), float(y), float(z)), np.pi / 2


def _stack(
    rng: np.random.Generator, size: tuple[float, float, float], things: list[Thing], half: tuple[float, float, float]
) -> tuple[Placed, str, tuple[float, float, float]]:
    """On top of a box or cylinder, shrunk to fit there."""
    below = things[int(rng.integers(len(things)))]
    room = min(below.half[0], below.half[2])
    if below.shape not in ("box", "cylinder") or below.place != "floor" or room < 0.16 or 2 * below.half[1] > 1.3:
        return None, "", half
    # Its whole footprint, at any yaw, stays on the top.
    shrink = min(1.0, rng.uniform(0.6, 0.95) * room / float(np.hypot(half[0], half[2])), 0.45 / half[1])
    half = (half[0] * shrink, half[1] * shrink, half[2] * shrink)
    if max(half) < 0.08:
        return None, "", half
    centre = (below.centre[0], -2 * below.half[1] - half[1], below.centre[2])
    return (centre, float(rng.uniform(0.0, np.pi))), below.shape, half


def _fits(
    size: tuple[float, float, float],
    pose_44: np.ndarray,
    things: list[Thing],
    shape: str,
    centre: tuple[float, float, float],
    half: tuple[float, float, float],
    place: str,
) -> bool:
    radius = half[0] if shape in ("sphere", "cylinder") else float(np.hypot(half[0], half[2]))
    if place == "wall":  # clear of other panels and of what stands before it
        return all(
            np.linalg.norm(np.subtract(centre, other.centre)) > 0.1 + max(half) + max(other.half) for other in things
        )
    inside = abs(centre[0]) + radius < size[0] / 2 - 0.02 and abs(centre[2]) + radius < size[2] / 2 - 0.02
    if not inside or np.hypot(centre[0] - pose_44[0, 3], centre[2] - pose_44[2, 3]) < radius + 0.75:
        return False
    if place != "floor":  # stacked: the tower below is already clear of everything but another thing on the same top
        return all(
            np.hypot(centre[0] - o.centre[0], centre[2] - o.centre[2]) > 1e-6 or o.place == "floor" for o in things
        )
    for other in things:
        reach = (
            other.half[0] if other.shape in ("sphere", "cylinder") else float(np.hypot(other.half[0], other.half[2]))
        )
        if np.hypot(centre[0] - other.centre[0], centre[2] - other.centre[2]) < radius + reach + 0.03:
            return False
    return True


def _traits(thing: Thing) -> dict[str, str]:
    return {
        "shape": thing.shape,
        "colour": thing.material.colour,
        "texture": thing.material.texture,
        "size": thing.size,
        "place": thing.place,
    }


def _describe(rng: np.random.Generator, things: Sequence[Thing]) -> tuple[Thing, ...]:
    """Names: colour and shape, and of texture, size and place what is needed to tell a thing from all others."""
    described = []
    for thing in things:
        traits = _traits(thing)
        extras = ["texture"] if traits["texture"] != "plain" and rng.random() < 0.5 else []
        if traits["size"] and rng.random() < 0.4:
            extras.append("size")
        for extra in ("texture", "size", "place"):
            used = ["shape", "colour", *extras]
            rivals = [o for o in things if o is not thing and all(_traits(o)[key] == traits[key] for key in used)]
            if not rivals:
                break
            if extra not in extras and (traits[extra] or extra != "size"):
                extras.append(extra)
        described.append(replace(thing, description=_phrase(traits, extras)))
    # Two things may differ only in that one of them has no size word: then those names stay alike, so the later goes.
    names = [thing.description for thing in described]
    return tuple(thing for i, thing in enumerate(described) if thing.description not in names[:i])


def _phrase(traits: dict[str, str], extras: Sequence[str]) -> str:
    words = [traits["size"] if "size" in extras else "", traits["colour"]]
    words.append(TEXTURE_WORDS[traits["texture"]] if "texture" in extras else "")
    words.append(traits["shape"])
    words.append(PLACE_WORDS[traits["place"]] if "place" in extras else "")
    return " ".join(word for word in words if word)


# ----------------------------------------------------------------------------------------------------------------------
# Rendering
# ----------------------------------------------------------------------------------------------------------------------


def render_rooms(
    seeds: Sequence[int], *, size: int | tuple[int, int] = 128, device: str | torch.device = "cpu"
) -> list[Cues]:
    """Render one view of the room of each seed.

    The result for a seed depends on the seed, the size and the kind of device only, not on the other seeds.

    Example:
        >>> from spatialboost.scenes.synthetic import render_rooms
        >>> cues = render_rooms([0, 1, 2], size=64)[2]
        >>> cues.image_HW3.shape, cues.source
        ((64, 64, 3), 'synthetic:2')

    Args:
        seeds: non-negative integers.
        size: edge of a square picture, or ``(height, width)``, pixels.
        device: where rays are cast; results always come back as numpy arrays.

    Returns:
        Cues with exact depth, pose (camera to world), objects with masks, and facts for captions.
    """
    return _render(
        [(room := sample_room(int(seed)), room.pose_44, f"synthetic:{room.seed}") for seed in seeds], size, device
    )


def render_views(
    room: Room,
    poses: Sequence[np.ndarray],
    *,
    size: int | tuple[int, int] = 128,
    device: str | torch.device = "cpu",
) -> list[Cues]:
    """Render one room from several cameras.

    Example:
        >>> from spatialboost.scenes.synthetic import look, render_views, sample_room
        >>> room = sample_room(3)
        >>> views = render_views(room, [room.pose_44, look((0.5, -1.4, -1.0), yaw=-0.2, pitch=0.2)], size=32)
        >>> len(views)
        2

    Args:
        room: from ``sample_room``.
        poses: 4x4 camera-to-world matrices, with the camera inside the room and outside of its things.
        size: edge of a square picture, or ``(height, width)``, pixels.
        device: where rays are cast.

    Raises:
        SpatialBoostError: a camera outside of the room.
    """
    width, height, depth = room.size
    for number, pose in enumerate(poses):
        x, y, z = pose[:3, 3]
        if not (abs(x) < width / 2 and -height < y < 0 and abs(z) < depth / 2):
            raise SpatialBoostError(
                f"camera {number} is at ({x:.2f}, {y:.2f}, {z:.2f}), outside of the room of seed {room.seed}; expected "
                f"|x| < {width / 2:.2f}, {-height:.2f} < y < 0, |z| < {depth / 2:.2f}"
            )
    return _render([(room, pose, f"synthetic:{room.seed}/view{i}") for i, pose in enumerate(poses)], size, device)


Shot = tuple[Room, np.ndarray, str]


def _render(shots: Sequence[Shot], size: int | tuple[int, int], device: str | torch.device) -> list[Cues]:
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise SpatialBoostError(f"size is {size}, expected a positive edge or (height, width) in pixels")
    device = torch.device(device)
    rays_at_once = RAYS_AT_ONCE.get(device.type, RAYS_AT_ONCE["cpu"])
    at_once = max(1, rays_at_once // (height * width))
    views: list[Cues] = []
    for start in range(0, len(shots), at_once):
        views.extend(_render_chunk(shots[start : start + at_once], height, width, device, rays_at_once))
    return views


@torch.no_grad()
def _render_chunk(
    shots: Sequence[Shot], height: int, width: int, device: torch.device, rays_at_once: int
) -> list[Cues]:
    rooms = [room for room, _, _ in shots]
    orders = [_order(room) for room in rooms]
    batch = _tables(rooms, orders, device)
    focals = [width / 2 / np.tan(np.radians(room.fov) / 2) for room in rooms]
    poses = torch.tensor(np.stack([pose for _, pose, _ in shots]), dtype=torch.float64)
    directions_B3N = _directions(poses, focals, height, width).to(device)
    origin_B3 = poses[:, :3, 3].float().to(device)
    angle_B = torch.tensor([1.0 / focal for focal in focals], dtype=torch.float32, device=device)
    pieces = [
        raycast.cast(batch, origin_B3, rays.contiguous(), angle_B)
        for rays in directions_B3N.split(max(1, rays_at_once // len(rooms)), dim=2)
    ]
    t_BN, index_BN, light_B3N = (torch.cat(parts, -1) for parts in zip(*pieces, strict=True))
    image = _develop(light_B3N.unflatten(-1, (height, width)), rooms)
    images = image.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    depths = t_BN.unflatten(-1, (height, width)).cpu().numpy()
    indices = index_BN.unflatten(-1, (height, width)).cpu().numpy()
    views = []
    for b, (room, pose, source) in enumerate(shots):
        intrinsics = np.array([[focals[b], 0, (width - 1) / 2], [0, focals[b], (height - 1) / 2], [0, 0, 1]])
        rows = _rows_of(orders[b], batch.counts)
        objects, seen = [], []
        for thing, row in zip(room.things, rows, strict=True):
            mask = indices[b] == row
            if mask.sum() >= max(SMALLEST_SHARE * mask.size, 4):
                objects.append(SceneObject(thing.description, mask))
                seen.append(thing)
        views.append(
            Cues(
                image_HW3=images[b].copy(),
                depth_HW=depths[b].copy(),
                intrinsics_33=intrinsics,
                source=source,
                objects=tuple(objects),
                pose_44=pose.copy(),
                facts=_facts(room, pose, seen),
            )
        )
    return views


def _directions(poses: Tensor, focals: Sequence[float], height: int, width: int) -> Tensor:
    """World directions of the pixels' rays with camera z = 1: (B, 3, N) float32."""
    v, u = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    rays = []
    for pose, focal in zip(poses, focals, strict=True):
        x, y = ((u - (width - 1) / 2) / focal).flatten(), ((v - (height - 1) / 2) / focal).flatten()
        rays.append(torch.stack([pose[i, 0] * x + pose[i, 1] * y + pose[i, 2] for i in range(3)]))
    return torch.stack(rays).float()


def _order(room: Room) -> tuple[list[int], list[int], list[int]]:
    """Indices of the things of each kind of primitive."""
    kinds = {"box": 0, "panel": 0, "sphere": 1, "cylinder": 2}
    return tuple([i for i, thing in enumerate(room.things) if kinds[thing.shape] == kind] for kind in range(3))  # type: ignore[return-value]


def _rows_of(order: tuple[list[int], ...], counts: tuple[int, int, int]) -> list[int]:
    """Row of each thing in the batch's table."""
    rows = {}
    start = raycast.SIDES
    for members, count in zip(order, counts, strict=True):
        rows.update({thing: start + place for place, thing in enumerate(members)})
        start += count
    return [rows[i] for i in range(len(rows))]


def _tables(rooms: Sequence[Room], orders: Sequence[tuple[list[int], ...]], device: torch.device) -> raycast.Batch:
    counts = tuple(max(len(order[kind]) for order in orders) for kind in range(3))
    total = raycast.SIDES + sum(counts)
    table = np.zeros((len(rooms), total, raycast.COLUMNS), np.float32)
    # Padding: a speck far outside of any room, behind its sides.
    table[:, :, raycast.CENTRE] = 1e4
    table[:, :, raycast.HALF] = 1e-3
    table[:, :, raycast.COS] = 1.0
    samples = [_light_samples(room) for room in rooms]
    # Padding: lamps that are off, which change no bit of the sum.
    lights = np.tile(np.array([0, -1, 0, 0, 0, 0], np.float32), (len(rooms), max(map(len, samples)), 1))
    for b, (room, order) in enumerate(zip(rooms, orders, strict=True)):
        width, height, depth = room.size
        for side, material in enumerate(room.sides):
            table[b, side] = _row((0, -height / 2, 0), (width / 2, height / 2, depth / 2), 0.0, material)
        for i, row in enumerate(_rows_of(order, counts)):  # type: ignore[arg-type]
            thing = room.things[i]
            table[b, row] = _row(thing.centre, thing.half, thing.yaw, thing.material)
        lights[b, : len(samples[b])] = samples[b]
    return raycast.Batch(
        torch.from_numpy(table).to(device),
        counts,  # type: ignore[arg-type]
        torch.from_numpy(lights).to(device),
        torch.tensor([room.ambient for room in rooms], dtype=torch.float32, device=device),
        torch.from_numpy(_lattice()).to(device),
    )


def _row(centre: Sequence[float], half: Sequence[float], yaw: float, material: Material) -> np.ndarray:
    # Squared: the renderer's linear light, whose square root is the picture.
    first, second = (np.square(shade) for shade in (material.first, material.second))
    texture = raycast.TEXTURES.index(material.texture)
    looks = [*first, *second, *material.axis, *material.frequency, *material.phase, texture, material.gloss]
    return np.array([*centre, *half, np.cos(yaw), np.sin(yaw), *looks], np.float32)


def _light_samples(room: Room) -> np.ndarray:
    """Each lamp as one point, or as four on a small disc where its shadows are soft."""
    points = []
    for light in room.lights:
        samples = 4 if light.radius > 0 else 1
        for k in range(samples):
            angle = 2 * np.pi * (k + 0.3) / samples
            offset = (light.radius * np.cos(angle), 0.0, light.radius * np.sin(angle))
            points.append([*np.add(light.position, offset), *_scale(light.colour, 1.0 / samples)])
    return np.array(points, np.float32)


@functools.cache
def _lattice() -> np.ndarray:
    return np.random.default_rng(2603).random(4096, dtype=np.float32)


@functools.cache
def _grain() -> np.ndarray:
    return np.random.default_rng(22057).standard_normal(1 << 20, dtype=np.float32)


def _develop(light_B3HW: Tensor, rooms: Sequence[Room]) -> Tensor:
    """From linear light to uint8: a soft shoulder, gamma 2, a lens that is not perfectly sharp, sensor noise."""
    shoulder = light_B3HW * (1.0 + 0.15 * light_B3HW) / (1.0 + 0.55 * light_B3HW)
    image = (shoulder * 1.25).clamp(0.0, 1.0).sqrt()
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1), mode="replicate")
    rows = 0.14 * padded[:, :, :-2] + 0.72 * padded[:, :, 1:-1] + 0.14 * padded[:, :, 2:]
    image = 0.14 * rows[..., :-2] + 0.72 * rows[..., 1:-1] + 0.14 * rows[..., 2:]
    grain = _grain()
    count = image[0].numel()
    for b, room in enumerate(rooms):
        offset = room.seed * 7919 % len(grain)
        noise = np.resize(np.roll(grain, -offset)[: min(count, len(grain))], count)
        image[b] += room.noise * torch.from_numpy(noise).to(image.device).view_as(image[b])
    return (image.clamp(0.0, 1.0) * 255.0 + 0.5).to(torch.uint8)


def _facts(room: Room, pose_44: np.ndarray, seen: Sequence[Thing]) -> dict[str, Any]:
    """What captions may tell; JSON-able, metres."""

    def metres(values: Sequence[float]) -> list[float]:
        return [round(float(value), 3) for value in values]

    return {
        "room_size": dict(zip(("width", "height", "depth"), metres(room.size), strict=True)),
        "camera_height": round(float(-pose_44[1, 3]), 3),
        "horizontal_fov": round(room.fov, 2),
        "lights": [metres(light.position) for light in room.lights],
        "walls": room.sides[5].colour,
        "floor": {"colour": room.sides[3].colour, "texture": room.sides[3].texture},
        "ceiling": room.sides[2].colour,
        "number_of_objects": len(seen),
        "number_of_things": len(room.things),
        "objects": [
            {
                "description": thing.description,
                "shape": thing.shape,
                "colour": thing.material.colour,
                "texture": thing.material.texture,
                "size": thing.size,
                "place": thing.place,
                "extent": metres([2 * half for half in thing.half]),
                "centre": metres(thing.centre),
            }
            for thing in seen
        ],
    }
