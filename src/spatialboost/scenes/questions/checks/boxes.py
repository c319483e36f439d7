"""Boxes of objects: compute their relations, and check the reason in an answer."""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from spatialboost.scenes.questions.checks.lengths import ROUNDING

Box = Sequence[float] | np.ndarray  # xmin, ymin, zmin, xmax, ymax, zmax

_NUMBER = r"-?\d+\.\d\d"
_CUBE = rf"\[({_NUMBER}(?:, {_NUMBER}){{5}})\]"
# The claim of each word about the first object: the relation, and whether the object is the left, upper, nearer or
# larger one.
CLAIMS = {
    "left": ("left_right", True),
    "right": ("left_right", False),
    "above": ("above_below", True),
    "below": ("above_below", False),
    "in front of": ("front_behind", True),
    "behind": ("front_behind", False),
    "larger": ("larger_smaller", True),
    "smaller": ("larger_smaller", False),
}
WORD = re.compile(rf"\b({'|'.join(CLAIMS)})\b")
_AXIS = {"left_right": 0, "above_below": 1, "front_behind": 2}
_TILT = math.radians(35)  # where gravity is unknown, a camera may be tilted or rolled by this much


def bare_name(description: str) -> str:
    """A description without its article and full stop."""
    return re.sub(r"(?i)^(a|an|the) ", "", " ".join(description.split())).rstrip(".")


def check_names(turn: dict[str, Any], pair: Sequence[int], facts: dict[str, Any]) -> Generator[str, None, list[str]]:
    """Check that the names in a turn are descriptions of its two objects.

    Returns:
        The names; the descriptions if the turn has no names of its own, as in older data sets.
    """
    things = [facts["objects"][i] for i in pair]
    names = list(turn.get("names", [thing["description"] for thing in things]))
    for name, thing in zip(names, things, strict=True):
        if name not in (thing["description"], *thing.get("aliases", ())):
            yield f"{name!r} is not a description of {thing['description']!r}"
    return names


def split_question(question: str, names: Sequence[str]) -> tuple[str, str, str] | None:
    """The text before, between and after the names of two objects; None if it does not name both in this order."""
    first, second = (re.escape(name) for name in names)
    found = re.fullmatch(rf"(.*?)\bthe {first}\b(.*?)\bthe {second}(?!\w)(.*)", question, re.DOTALL)
    return found and (found[1], found[2], found[3])  # type: ignore[return-value]


def check_reason(
    answer: str,
    relation: str,
    names: Sequence[str],
    a: dict[str, Any],
    b: dict[str, Any],
    facts: dict[str, Any],
) -> Generator[str, None, bool | None]:
    """Check the start of an answer: both cubes and the comparison.

    Returns:
        Whether the relation's first word is true; None if the answer cannot be parsed.
    """
    first, second = (re.escape(name) for name in names)
    found = re.match(
        rf"The {first} is located {_CUBE} in the image\. The {second} is located {_CUBE} in the image\. "
        rf"Comparing their 3D (?:positions|sizes), the {first} is (.+) the {second}\. Answer: ",
        answer,
    )
    word = found and WORD.search(found[3])
    if not found or not word:
        yield f"the answer {answer!r} does not state both cubes and their comparison in the expected form"
        return None
    cubes = [[float(side) for side in found[i].split(", ")] for i in (1, 2)]
    low, size = np.array(facts["scene_box"][:3]), np.diff(np.reshape(facts["scene_box"], (2, 3)), axis=0)[0]
    for cube, thing in zip(cubes, (a, b), strict=True):
        scaled = ((np.reshape(thing["extent_m"], (2, 3)) - low) / np.maximum(size, 1e-3)).clip(0, 1).ravel()
        # in a thin scene's box, rounding metres to six decimals gives a larger error
        if np.abs(scaled - thing["cube"]).max() > 4 * ROUNDING / max(size.min(), 1e-3) + ROUNDING:
            recomputed = np.round(scaled, 4).tolist()
            yield f"the recorded cube of {thing['description']!r} is {thing['cube']}, recomputed {recomputed}"
        if np.abs(np.subtract(cube, thing["cube"])).max() > 0.005 + ROUNDING:
            yield f"the answer gives {thing['description']!r} the cube {cube}, the ground truth is {thing['cube']}"
    holds = yield from check_relation(relation, a, b, facts)
    if first_holds(relation, *cubes) != holds:
        yield "the cubes in the answer do not show the true relation"
    if CLAIMS[word[1]] != (relation, holds):
        yield f"the comparison says {word[1]!r}, which is not true"
    return holds


def check_relation(
    relation: str, a: dict[str, Any], b: dict[str, Any], facts: dict[str, Any]
) -> Generator[str, None, bool]:
    """Check that a relation of two objects is clear.

    A view with ``up`` in its facts has a known gravity, or None where it is unknown. Older data sets have no such fact;
    there, "above" is along the camera's own vertical.

    Returns:
        Whether the relation's first word is true of them.
    """
    holds = first_holds(relation, a["extent_m"], b["extent_m"])
    clear = _is_beyond_noise(relation, a["extent_m"], b["extent_m"], facts["depth_noise"])
    if relation == "above_below" and facts.get("up") is not None:
        high_a, high_b = (sum(thing["heights_m"]) / 2 for thing in (a, b))
        clear &= abs(high_a - high_b) > 2 * facts["depth_noise"] * math.hypot(high_a, high_b)
        if (high_a > high_b) != holds:
            yield "along gravity, the other object is the higher one"
    elif relation == "above_below" and "up" in facts:
        first, second = centre_of(a["extent_m"]), centre_of(b["extent_m"])
        if abs(first[1] - second[1]) < math.sin(_TILT) * math.dist(first, second):
            yield "gravity is unknown, and a tilt of the camera could change which object is the higher one"
    if not clear:
        yield "the difference between the two objects is within the noise of their source"
    return holds


def measure_heights(word: str, objects: Sequence[int], heights: Sequence[np.ndarray]) -> Generator[str, None, None]:
    """Check "above" and "below" against newly measured heights along gravity, if it is known."""
    relation, holds = CLAIMS[word]
    if relation == "above_below" and heights:
        high_a, high_b = (float(np.mean(heights[i])) for i in objects)
        if (high_a > high_b) != holds:
            yield f"{word!r} is not true along gravity for the newly measured objects"


def measure_claim(word: str, objects: Sequence[int], extents: Sequence[np.ndarray]) -> Generator[str, None, None]:
    """Check the claim of a word about two objects against their newly measured extents."""
    relation, holds = CLAIMS[word]
    if first_holds(relation, *(extents[i] for i in objects)) != holds:
        yield f"{word!r} is not true for the newly measured objects"


def first_holds(relation: str, a: Box, b: Box) -> bool:
    """Whether the first of two boxes is the left, upper, nearer or larger one."""
    if relation == "larger_smaller":
        return _front(a) > _front(b)
    return centre_of(a)[_AXIS[relation]] < centre_of(b)[_AXIS[relation]]


def is_extreme(winner: int, among: Sequence[int], facts: dict[str, Any], *, closest: bool) -> bool:
    """Whether an object's centre is the closest (or the farthest) of these objects."""
    depths = {i: centre_of(facts["objects"][i]["extent_m"])[2] for i in among}
    return winner == (min if closest else max)(depths, key=lambda i: depths[i])


def centre_of(box: Box) -> list[float]:
    """The middle of a box."""
    return [(box[i] + box[i + 3]) / 2 for i in range(3)]


def _is_beyond_noise(relation: str, a: Box, b: Box, noise: float) -> bool:
    if relation == "larger_smaller":
        return abs(math.log(_front(a)) - math.log(_front(b))) > 4 * math.sqrt(2) * noise
    first, second = centre_of(a)[_AXIS[relation]], centre_of(b)[_AXIS[relation]]
    return abs(first - second) > 2 * noise * math.hypot(first, second)


def _front(box: Box) -> float:
    """Width times height."""
    return (box[3] - box[0]) * (box[4] - box[1])
