"""The check of which object is closer to the first view's camera."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from spatialboost.scenes.questions.checks.across import check_images, check_named_objects, place_of
from spatialboost.scenes.questions.checks.distance_across import measure_pair
from spatialboost.scenes.questions.checks.lengths import LENGTH, ROUNDING, check_length
from spatialboost.scenes.questions.checks.protocol import Check, MeasuredView


class CloserAcrossCheck(Check):
    """Both distances are right, and the verdict is the object with the smaller one."""

    level = 1

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
        """Compute both distances again."""
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
        """Measure both objects again."""
        places, problems = measure_pair(turn, views)
        yield from problems
        closer = 0 if math.hypot(*places[0]) < math.hypot(*places[1]) else turn["images"][1]
        if closer != turn["verdict"]:
            yield f"measured again, the object in image {closer + 1} is closer"
