"""Sample the things in a room: their shapes, their places, and descriptions that distinguish them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from spatialboost.scenes.rooms.materials import PALETTE, pick, sample_material
from spatialboost.scenes.rooms.room import Thing

PLACE_WORDS = {"floor": "on the floor", "wall": "on the wall", "box": "on a box", "cylinder": "on a cylinder"}


def sample_things(
    rng: np.random.Generator,
    size: tuple[float, float, float],
    pose_44: np.ndarray,
    fov: float,
    count: int,
    avoid: tuple[str, str],
) -> tuple[Thing, ...]:
    """Sample things that fit into a room. They do not overlap, and each has a unique description."""
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
            placed, place, half = _stack(rng, things, half)
        else:
            placed = _stand(rng, pose_44, fov, half)
            place = "floor"
        if placed is None:
            continue
        centre, yaw = placed
        if not _fits(size, pose_44, things, shape, centre, half, place):
            continue
        colour = pick(rng, [name for name in PALETTE if name not in avoid])
        textures = {"plain": 0.4, "striped": 0.2, "checkered": 0.2, "speckled": 0.2}
        if colour == "brown":
            textures["wooden"] = 0.6
        material = sample_material(rng, colour, textures, coarse=float(np.clip(0.55 * max(half), 0.1, 0.28)))
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
    if kind == 0:  # almost a cube
        edge = rng.uniform(0.12, 0.45)
        return edge * rng.uniform(0.8, 1.2), edge * rng.uniform(0.8, 1.2), edge * rng.uniform(0.8, 1.2)
    if kind == 1:  # like a cupboard
        return rng.uniform(0.15, 0.4), rng.uniform(0.45, 0.95), rng.uniform(0.15, 0.4)
    return rng.uniform(0.3, 0.8), rng.uniform(0.08, 0.3), rng.uniform(0.25, 0.5)  # like a chest or a low table


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


def _stand(rng: np.random.Generator, pose_44: np.ndarray, fov: float, half: Sequence[float]) -> Placed:
    """Place a thing on the floor, at a random distance and angle within the camera's view."""
    distance = rng.uniform(1.1, 6.5)
    angle = np.arctan2(pose_44[0, 2], pose_44[2, 2]) + np.radians(rng.uniform(-0.46, 0.46) * fov)
    x, z = pose_44[0, 3] + distance * np.sin(angle), pose_44[2, 3] + distance * np.cos(angle)
    return (float(x), -half[1], float(z)), float(rng.uniform(0.0, np.pi))


def _hang(rng: np.random.Generator, size: tuple[float, float, float], half: Sequence[float]) -> Placed:
    width, height, depth = size
    y = -rng.uniform(1.1, max(1.15, height - half[1] - 0.15))
    wall = int(rng.integers(3))  # back, left, right; the fourth wall is behind the camera
    if wall == 0:
        x = rng.uniform(-1, 1) * (width / 2 - half[0] - 0.05)
        return (float(x), float(y), depth / 2 - half[2]), 0.0
    z = rng.uniform(-0.2, 1) * (depth / 2 - half[0] - 0.05)
    return ((width / 2 - half[2]) * (1 if wall == 1 else -1), float(y), float(z)), np.pi / 2


def _stack(
    rng: np.random.Generator, things: list[Thing], half: tuple[float, float, float]
) -> tuple[Placed, str, tuple[float, float, float]]:
    """Place a thing on top of a box or cylinder, and shrink it to fit there."""
    below = things[int(rng.integers(len(things)))]
    narrow = min(below.half[0], below.half[2])
    if below.shape not in ("box", "cylinder") or below.place != "floor" or narrow < 0.16 or 2 * below.half[1] > 1.3:
        return None, "", half
    # Small enough to fit on the top at any yaw
    shrink = min(1.0, rng.uniform(0.6, 0.95) * narrow / float(np.hypot(half[0], half[2])), 0.45 / half[1])
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
    """Whether a thing keeps clear of the walls, the camera and the other things."""
    radius = half[0] if shape in ("sphere", "cylinder") else float(np.hypot(half[0], half[2]))
    if place == "wall":  # away from other panels and from things in front of it
        return all(
            np.linalg.norm(np.subtract(centre, other.centre)) > 0.1 + max(half) + max(other.half) for other in things
        )
    inside = abs(centre[0]) + radius < size[0] / 2 - 0.02 and abs(centre[2]) + radius < size[2] / 2 - 0.02
    if not inside or np.hypot(centre[0] - pose_44[0, 3], centre[2] - pose_44[2, 3]) < radius + 0.75:
        return False
    if place != "floor":  # on top of a thing that fits: it can only collide with another thing on the same top
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
    """Describe things by colour and shape, plus texture, size or place as needed for unique descriptions."""
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
        described.append(replace(thing, description=_phrase(traits, extras), aliases=_aliases(thing, things)))
    # Two things may differ only in size, and one size may have no word. Then their descriptions are the same, and the
    # later thing is removed.
    names = [thing.description for thing in described]
    return tuple(thing for i, thing in enumerate(described) if thing.description not in names[:i])


def _aliases(thing: Thing, things: Sequence[Thing]) -> tuple[str, ...]:
    """Unique descriptions by colour, texture and shape, and by colour and texture alone ("red striped object")."""
    traits = _traits(thing)
    aliases = []
    for used in (("colour", "shape"), ("colour", "texture", "shape"), ("colour",), ("colour", "texture")):
        if not any(o is not thing and all(_traits(o)[key] == traits[key] for key in used) for o in things):
            named = traits if "shape" in used else {**traits, "shape": "object"}
            aliases.append(_phrase(named, ["texture"] if "texture" in used else []))
    return tuple(aliases)


def _phrase(traits: dict[str, str], extras: Sequence[str]) -> str:
    words = [traits["size"] if "size" in extras else "", traits["colour"]]
    words.append(traits["texture"] if "texture" in extras else "")
    words.append(traits["shape"])
    words.append(PLACE_WORDS[traits["place"]] if "place" in extras else "")
    return " ".join(word for word in words if word)
