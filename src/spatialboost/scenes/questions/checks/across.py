"""Several views: their images in a question, their cameras, and what their depth maps and masks say about objects."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from spatialboost.scenes.camera import project, unproject
from spatialboost.scenes.cues import Cues, SceneObject
from spatialboost.scenes.questions.checks.boxes import bare_name, centre_of
from spatialboost.scenes.questions.checks.protocol import MeasuredView

# Shape legend: P = points of an object.

_AGREE = 0.05  # of the depth
_IMAGE = re.compile(r"\bimages? (\d+)(?: and (\d+))?")


def check_images(question: str, images: Sequence[int], count: int) -> Iterator[str]:
    """Check that a question names exactly these images (numbers from 0), which the scene has."""
    named = {int(number) - 1 for pair in _IMAGE.findall(question) for number in pair if number}
    if named != set(images) or len(set(images)) != 2:
        yield f"the question {question!r} does not name the images {[number + 1 for number in images]}"
    if not all(0 <= number < count for number in images):
        yield f"there are {count} images, but the turn is about {list(images)}"


def check_named_objects(text: str, turn: dict[str, Any], facts: dict[str, Any], images: Sequence[int]) -> Iterator[str]:
    """Check that a text contains the names of the turn's objects, and that the names are theirs."""
    for name, number, image in zip(turn["names"], turn["objects"], images, strict=True):
        thing = facts["views"][image]["objects"][number]
        if number < 0 or image < 0:
            yield f"object {number} of image {image + 1} does not exist"
        if f"the {name}" not in text and f"The {name}" not in text:
            yield f"{text!r} does not name {name!r}"
        if name != thing["description"] and name not in thing.get("aliases", ()):
            yield f"{name!r} is not a name of {thing['description']!r}"


def place_of(thing: dict[str, Any], pose: Sequence[Sequence[float]]) -> list[float]:
    """The centre of an object in the first view's frame, metres."""
    centre = [*centre_of(thing["extent_m"]), 1.0]
    return [math.fsum(a * b for a, b in zip(pose[row], centre, strict=True)) for row in range(3)]


def measure_pose(views: Sequence[MeasuredView], image: int) -> np.ndarray:
    """From the frame of an image's camera to the first one, from the poses of the views."""
    first, other = (np.asarray(views[i].cues.pose_44, np.float64) for i in (0, image))
    return np.linalg.solve(first, other)


def thing_of(views: Sequence[MeasuredView], image: int, facts_name: str) -> SceneObject | None:
    """The object of an image with this description or alias."""
    found = [
        thing
        for thing in views[image].cues.objects
        if facts_name in map(bare_name, (thing.description, *thing.aliases))
    ]
    return found[0] if found else None


def measure_same(one: SceneObject, at: Cues, two: SceneObject, there: Cues) -> bool | None:
    """Whether two objects are one thing: by their identities, else by the points that land on each other's masks."""
    if one.identity is not None and two.identity is not None:
        return one.identity == two.identity
    shares = []
    for thing, cues, other, target in ((one, at, two, there), (two, there, one, at)):
        landed = seen_by(thing, cues, target)
        shares.append(float((landed & other.mask_HW).sum() / max(landed.sum(), 1)))
    if min(shares) >= 0.5:  # a little less strict than the asking is
        return True
    return False if max(shares) <= 0.1 or not min(shares) else None


def seen_by(thing: SceneObject, cues: Cues, target: Cues) -> np.ndarray:
    """The pixels of another view on which points of an object are visible, bool ``(H, W)``."""
    points_P3 = unproject(cues.depth_HW, np.asarray(cues.intrinsics_33, np.float64))[thing.mask_HW & cues.valid_HW]
    move_44 = np.linalg.solve(np.asarray(target.pose_44, np.float64), np.asarray(cues.pose_44, np.float64))
    moved_P3 = points_P3 @ move_44[:3, :3].T + move_44[:3, 3]
    in_front = moved_P3[:, 2] > 1e-6
    moved_P3 = moved_P3[in_front]
    columns, rows = np.rint(project(moved_P3, np.asarray(target.intrinsics_33))).astype(int).T
    height, width = target.size
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    rows, columns, depth_P = rows[inside], columns[inside], moved_P3[inside, 2]
    slack = _AGREE + 2 * (cues.depth_noise + target.depth_noise)
    visible = target.valid_HW[rows, columns] & (abs(target.depth_HW[rows, columns] / depth_P - 1) <= slack)
    landed = np.zeros(target.size, bool)
    landed[rows[visible], columns[visible]] = True
    return landed
