"""The check of the distance between two objects of different views."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from spatialboost.scenes.questions.checks.across import (
    check_images,
    check_named_objects,
    measure_pose,
    measure_same,
    place_of,
    thing_of,
)
from spatialboost.scenes.questions.checks.boxes import centre_of
from spatialboost.scenes.questions.checks.lengths import LENGTH, ROUNDING, check_length
from spatialboost.scenes.questions.checks.protocol import Check, MeasuredView

_NUMBER = r"-?\d+\.\d\d"
_PLACE = rf"\(({_NUMBER}), ({_NUMBER}), ({_NUMBER})\)"


class DistanceAcrossCheck(Check):
    """Both positions and the distance are right."""

    level = 2

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
        """Compute the positions and the distance again."""
        images, k = turn["images"], turn["images"][1]
        yield from check_images(question, images, facts["images"])
        yield from check_named_objects(question, turn, facts, images)
        places = [
            place_of(facts["views"][image]["objects"][number], facts["views"][image]["pose"])
            for image, number in zip(images, turn["objects"], strict=True)
        ]
        metres = math.dist(*places)
        a, b = map(re.escape, turn["names"])
        stated = re.fullmatch(
            rf"In the frame of image 1 \(right, down, forward, in meters\), the {a} in image 1 is at {_PLACE} and "
            rf"the {b} in image {k + 1} is at {_PLACE}\. Answer: ({LENGTH.pattern})\.",
            answer,
        )
        if not stated:
            yield f"the answer {answer!r} does not state both positions and the distance in the expected form"
            return
        shown = [float(part) for part in stated.groups()[:6]]
        if max(abs(part - true) for part, true in zip(shown, [*places[0], *places[1]], strict=True)) > 0.0051:
            yield f"the answer has the positions {shown}, the ground truth is {places}"
        yield from check_length(stated[7], metres)
        if abs(metres - turn["distance"]) > 4 * ROUNDING:
            yield f"the recorded distance is {turn['distance']} m, recomputed {metres:.6f} m"

    def measure(self, question: str, turn: dict[str, Any], views: Sequence[MeasuredView]) -> Iterator[str]:
        """Measure both objects again."""
        places, problems = measure_pair(turn, views)
        yield from problems
        if abs(math.dist(*places) - turn["distance"]) > 0.02 + 0.05 * turn["distance"]:
            yield f"measured again, the distance is {math.dist(*places):.3f} m, but meta has {turn['distance']} m"


def measure_pair(turn: dict[str, Any], views: Sequence[MeasuredView]) -> tuple[list[list[float]], list[str]]:
    """The centres of both objects in the first view's frame, and whether they may be one thing."""
    places = []
    for image, number in zip(turn["images"], turn["objects"], strict=True):
        place = measure_pose(views, image) @ np.array([*centre_of(views[image].extents[number]), 1.0])
        places.append(place[:3].tolist())
    one, two = (thing_of(views, image, name) for image, name in zip(turn["images"], turn["names"], strict=True))
    if one is None or two is None:
        return places, [f"an object of {turn['names']} is missing"]
    cues = [views[image].cues for image in turn["images"]]
    same = measure_same(one, cues[0], two, cues[1]) is True
    return places, [f"{turn['names'][0]!r} and {turn['names'][1]!r} may be one thing"] if same else []
