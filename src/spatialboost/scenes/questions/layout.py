"""Measure a view: the boxes of the objects and of the scene, and which relations between objects are clear."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from spatialboost.scenes.cues import Cues, SceneObject

# Shape legend: H, W = image height and width in pixels; P = points of one object or of the scene.

SCENE_PERCENTILES = (1.0, 99.0)  # of all valid points, per axis
OBJECT_PERCENTILES = (2.0, 98.0)  # of an object's valid points, per axis: removes outliers at its edge
MIN_OBJECT_SHARE = 0.002  # fraction of the image, counting pixels with a reading; smaller objects are not used
MIN_OBJECT_POINTS = 12
MIN_AXIS_GAP = 0.05  # fraction of the scene's box: centres that are closer along an axis are not compared
MIN_SIZE_RATIO = 1.25
SIGMAS = 2.0  # no question is asked about a difference within this many standard deviations of the noise
_MAX_POINTS = 10_000  # with more points, percentiles are computed from an evenly spaced sample
_MIN_SIDE = 1e-3  # metres; minimum side of the scene's box, for flat scenes
# How far a camera is tilted or rolled against gravity, at most, where gravity is unknown.
MAX_TILT = math.radians(35.0)

AXES = {"left_right": 0, "above_below": 1, "front_behind": 2}
RELATIONS = (*AXES, "larger_smaller")


@dataclass(frozen=True)
class ObjectFact:
    """The measurements of one object. Numbers are rounded to six decimals, so that JSON does not change them."""

    description: str  # noun phrase without article
    pixels: int  # number of its pixels with a depth reading
    # [xmin, ymin, zmin, xmax, ymax, zmax] in metres in the camera's frame (x right, y down, z forward)
    extent_m: tuple[float, ...]
    cube: tuple[float, ...]  # the extent relative to the scene's box, scaled to [0, 1]
    centre_xy: tuple[float, float]  # mean of its visible pixels, normalised by the image's width and height
    depth_m: float  # median depth in metres
    cut: bool  # whether it touches the image border, so that it may be larger than its visible part
    aliases: tuple[str, ...] = ()  # further descriptions; unique in the view
    # lowest and highest height along gravity, metres above the camera; None if gravity is unknown
    heights_m: tuple[float, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The description and the aliases."""
        return (self.description, *self.aliases)

    def to_json(self) -> dict[str, Any]:
        """A dict of plain numbers and lists, without aliases and heights if there are none."""
        facts = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return {name: value for name, value in facts.items() if name not in ("aliases", "heights_m") or value}


@dataclass(frozen=True)
class Layout:
    """The scene's box in metres and the objects that are large enough to be asked about."""

    box_m: tuple[float, ...]  # the box
    objects: tuple[ObjectFact, ...]  # the usable objects
    # the direction against gravity in the camera's frame, of length 1; None if unknown
    up: tuple[float, ...] | None = None


def measure_layout(cues: Cues) -> Layout:
    """Measure the scene's box and every usable object of a view.

    Example:
        >>> mask = np.zeros((40, 40), bool)
        >>> mask[10:20, 10:20] = True
        >>> cues = Cues(
        ...     image_HW3=np.zeros((40, 40, 3), np.uint8),
        ...     depth_HW=np.where(mask, 1.0, 2.0),
        ...     intrinsics_33=np.array([[40.0, 0, 19.5], [0, 40.0, 19.5], [0, 0, 1]]),
        ...     source="example",
        ...     objects=[SceneObject("red box", mask)],
        ... )
        >>> layout = measure_layout(cues)
        >>> layout.objects[0].depth_m, layout.box_m[2], layout.box_m[5]
        (1.0, 1.0, 2.0)

    The scene's box spans the 1st to 99th percentile of all valid points, per axis. An object's extent spans the 2nd to
    98th percentile of its own valid points. Both use an evenly spaced sample if there are more than 10,000 points. A
    cube is the extent scaled by the scene's box, per axis, and clipped to [0, 1]: x grows to the right, y downwards, z
    away from the camera. Some objects are left out: those with fewer than 0.2 % of the image's pixels, those with the
    same description as another object, and those whose description would break the text (it is empty, or it contains
    brackets or bars as in special tokens).
    """
    valid = np.flatnonzero(cues.valid_HW)
    box = np.percentile(_points(cues, valid), SCENE_PERCENTILES, axis=1).ravel()
    size = np.maximum(box[3:] - box[:3], _MIN_SIDE)
    height, width = cues.size
    fewest = max(MIN_OBJECT_POINTS, MIN_OBJECT_SHARE * height * width)
    names = [clean_description(thing.description) for thing in cues.objects]
    aliases = [_clean_aliases(thing) for thing in cues.objects]
    taken = Counter(chain(names, *aliases))
    up = None if cues.up_3 is None else _plain(cues.up_3)
    facts = []
    for name, further, thing in zip(names, aliases, cues.objects, strict=True):
        index = np.flatnonzero(thing.mask_HW & cues.valid_HW)
        if not name or names.count(name) > 1 or index.size < fewest:
            continue
        points_3P = _points(cues, index)
        extent = np.percentile(points_3P, OBJECT_PERCENTILES, axis=1).ravel()
        cube = np.clip((extent.reshape(2, 3) - box[:3]) / size, 0.0, 1.0).ravel()
        rows, columns = np.divmod(np.flatnonzero(thing.mask_HW), width)
        cut = rows[0] == 0 or rows[-1] == height - 1 or columns.min() == 0 or columns.max() == width - 1
        facts.append(
            ObjectFact(
                description=name,
                pixels=int(index.size),
                extent_m=_plain(extent),
                cube=_plain(cube),
                centre_xy=_plain(np.array([(columns.mean() + 0.5) / width, (rows.mean() + 0.5) / height])),  # type: ignore[arg-type]
                depth_m=round(float(np.median(cues.depth_HW.ravel()[index])), 6),
                cut=bool(cut),
                aliases=tuple(alias for alias in further if taken[alias] == 1),
                heights_m=None if up is None else _plain(np.percentile(np.array(up) @ points_3P, OBJECT_PERCENTILES)),
            )
        )
    return Layout(_plain(box), tuple(facts), up)


def compare_objects(kind: str, a: ObjectFact, b: ObjectFact, box_m: tuple[float, ...], noise: float) -> int:
    """Compare two objects: 1, -1, or 0 if the relation is not clear enough for a question.

    1 means that ``a`` is left of, above, in front of, or larger than ``b``; -1 means the opposite.

    "Above" is along gravity: the middles of the heights decide, and the cubes and the image must agree with them. If
    gravity is unknown, every direction up within 35 degrees of the camera's own must give the same answer.

    Positions are compared by the centres of the extents, along x, y or z. They must differ by more than two standard
    deviations of the source's noise plus 5 % of the scene's box. The cubes with two decimals must show the difference,
    and the image must agree (mean column, mean row, median depth). Sizes are compared by width times height of the
    extents, because this is what a viewer sees. They must differ by more than a factor of 1.25 plus the noise; width
    times height times depth must agree; and the image border must not cut the smaller object.
    """
    if kind == "larger_smaller":
        return _compare_sizes(a, b, noise)
    axis = AXES[kind]
    centre_a, centre_b = _centre(a.extent_m), _centre(b.extent_m)
    gap = centre_b[axis] - centre_a[axis]
    needed = SIGMAS * noise * math.hypot(centre_a[axis], centre_b[axis])
    needed += MIN_AXIS_GAP * (box_m[axis + 3] - box_m[axis])
    seen = b.depth_m - a.depth_m if axis == 2 else b.centre_xy[axis] - a.centre_xy[axis]
    shown = _centre(_shown(b.cube))[axis] - _centre(_shown(a.cube))[axis]
    if abs(gap) <= needed or gap * seen <= 0 or shown * gap <= 0 or abs(shown) < 0.0199:
        return 0
    if kind == "above_below" and not _gravity_agrees(a, b, gap, noise, MIN_AXIS_GAP * (box_m[4] - box_m[1])):
        return 0
    return 1 if gap > 0 else -1


def _gravity_agrees(a: ObjectFact, b: ObjectFact, gap: float, noise: float, margin: float) -> bool:
    """Whether the object that is higher in the camera's frame (``a`` if the gap is positive) is clearly the higher."""
    if a.heights_m is not None and b.heights_m is not None:
        high_a, high_b = sum(a.heights_m) / 2, sum(b.heights_m) / 2
        rise = (high_a - high_b) * (1 if gap > 0 else -1)
        return rise > SIGMAS * noise * math.hypot(high_a, high_b) + margin
    apart = math.dist(_centre(a.extent_m), _centre(b.extent_m))
    return abs(gap) > apart * math.cos(math.pi / 2 - MAX_TILT)


def _compare_sizes(a: ObjectFact, b: ObjectFact, noise: float) -> int:
    def sides(box: tuple[float, ...]) -> tuple[float, float, float]:
        return box[3] - box[0], box[4] - box[1], max(box[5] - box[2], 0.01)

    (wide_a, high_a, deep_a), (wide_b, high_b, deep_b) = sides(a.extent_m), sides(b.extent_m)
    front_a, front_b = wide_a * high_a, wide_b * high_b
    shown_a, shown_b = sides(_shown(a.cube)), sides(_shown(b.cube))
    if min(front_a, front_b) <= 0:
        return 0
    ratio = math.log(front_a / front_b)
    # An area is proportional to the depth squared, so its noise is twice as large.
    if abs(ratio) <= math.log(MIN_SIZE_RATIO) + 2 * SIGMAS * noise * math.sqrt(2):
        return 0
    sign = 1 if ratio > 0 else -1
    agrees = sign * (front_a * deep_a - front_b * deep_b) > 0
    visible = sign * (shown_a[0] * shown_a[1] - shown_b[0] * shown_b[1]) > 1e-9
    smaller = b if sign > 0 else a
    return sign if agrees and visible and not smaller.cut else 0


def measure_distance(a: ObjectFact, b: ObjectFact, noise: float) -> float | None:
    """Metres between the centres of two extents, or None if the distance is within the source's noise."""
    centre_a, centre_b = _centre(a.extent_m), _centre(b.extent_m)
    distance = math.dist(centre_a, centre_b)
    return distance if distance > SIGMAS * noise * math.hypot(*centre_a, *centre_b) + 0.01 else None


def clean_description(text: str) -> str:
    """Clean a description: one line, no article; empty if a chat template could read it as a special token."""
    words = text.split()
    if words and words[0].lower() in ("a", "an", "the"):
        words = words[1:]
    cleaned = " ".join(words).rstrip(".")
    return "" if any(mark in cleaned for mark in "<>|[]{}?") else cleaned


def _clean_aliases(thing: SceneObject) -> tuple[str, ...]:
    cleaned = dict.fromkeys(clean_description(alias) for alias in thing.aliases)
    return tuple(alias for alias in cleaned if alias and alias != clean_description(thing.description))


def _points(cues: Cues, index: np.ndarray) -> np.ndarray:
    """(3, P) points in metres of the pixels with these flat indices, or of an evenly spaced sample of them."""
    index = index[:: -(-index.size // _MAX_POINTS)]
    row, column = np.divmod(index, cues.size[1])
    inverse_33 = np.linalg.inv(np.asarray(cues.intrinsics_33, np.float64))
    ray_3P = inverse_33[:, :2] @ np.stack([column, row]) + inverse_33[:, 2:]
    return ray_3P * cues.depth_HW.ravel()[index] / ray_3P[2]


def _centre(box: tuple[float, ...]) -> tuple[float, float, float]:
    return (box[0] + box[3]) / 2, (box[1] + box[4]) / 2, (box[2] + box[5]) / 2


def _shown(cube: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(side, 2) for side in cube)


def _plain(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)
