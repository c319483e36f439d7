"""The checks of questions about two objects of different views: which is closer, and how far apart they are."""

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


class CloserAcrossCheck(Check):
    """Both distances are right, and the verdict is the object with the smaller one."""

    level = 1

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
        images, k = turn["images"], turn["images"][1]
        yield from check_images(question, images, facts["images"])
        yield from check_named_objects(question, turn, facts, images)
        things = [
            facts["views"][image]["objects"][number] for image, number in zip(images, turn["objects"], strict=True)
        ]
        poses = [facts["views"][image]["pose"] for image in images]
        metres = [math.hypot(*place_of(thing, pose)) for thing, pose in zip(things, poses, strict=True)]
        if max(abs(a - b) for a, b in zip(metres, turn["distances"], strict=True)) > 4 * ROUNDING:
            yield f"the recorded distances are {turn['distances']}, recomputed {metres}"
        a, b = turn["names"]
        closer = 0 if metres[0] < metres[1] else k
        winner = f"the {a} in image 1" if closer == 0 else f"the {b} in image {k + 1}"
        stated = re.fullmatch(
            rf"The {re.escape(a)} in image 1 is ({LENGTH.pattern}) away, and the {re.escape(b)} in image {k + 1} is "
            rf"({LENGTH.pattern}) away\. Answer: {re.escape(winner)}\.",
            answer,
        )
        if not stated or turn["verdict"] != closer:
            yield f"the answer is {answer!r}, but {winner} is closer ({metres[0]:.3f} m and {metres[1]:.3f} m)"
            return
        yield from check_length(stated[1], metres[0])
        yield from check_length(stated[4], metres[1])
        noises = [facts["views"][i]["depth_noise"] * thing["depth_m"] for i, thing in zip(images, things, strict=True)]
        if abs(metres[0] - metres[1]) <= 2 * math.hypot(*noises) + 0.09 * min(metres):
            yield f"the difference between {metres[0]:.3f} m and {metres[1]:.3f} m is not clear"

    def measure(self, question: str, turn: dict[str, Any], views: Sequence[MeasuredView]) -> Iterator[str]:
        places, problems = _measure_pair(turn, views)
        yield from problems
        closer = 0 if math.hypot(*places[0]) < math.hypot(*places[1]) else turn["images"][1]
        if closer != turn["verdict"]:
            yield f"measured again, the object in image {closer + 1} is closer"


class DistanceAcrossCheck(Check):
    """Both positions and the distance are right."""

    level = 2

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
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
        places, problems = _measure_pair(turn, views)
        yield from problems
        if abs(math.dist(*places) - turn["distance"]) > 0.02 + 0.05 * turn["distance"]:
            yield f"measured again, the distance is {math.dist(*places):.3f} m, but meta has {turn['distance']} m"


def _measure_pair(turn: dict[str, Any], views: Sequence[MeasuredView]) -> tuple[list[list[float]], list[str]]:
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
