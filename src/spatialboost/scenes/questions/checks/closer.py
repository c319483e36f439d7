"""The check of which of two points is closer."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from spatialboost.scenes.questions.checks.points import POINT, check_named_points, depths_around, measure_points
from spatialboost.scenes.questions.checks.protocol import Check, MeasuredView


class CloserCheck(Check):
    """The point in the answer is the closer one, and the difference is larger than the noise of the source."""

    level = 0

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
        yield from check_named_points(question, turn, facts["size"], 2)
        asked = re.fullmatch(rf"(.*)\bPoint 1 : {POINT.pattern}(.*)\bPoint 2 : {POINT.pattern}(.*)", question)
        words = " | ".join(asked[i] for i in (1, 4, 7)) if asked else ""
        if not re.search(r"\b(?:closer?|nearer)\b", words) or re.search(r"\b(?:far|farther|farthest|not)\b", words):
            yield f"the question {question!r} does not ask which point is closer"
        first, second = turn["depths"]
        if abs(first - second) <= 2 * facts["depth_noise"] * math.hypot(first, second):
            yield f"the difference between the depths {first} and {second} is within the noise of their source"
        nearer = 1 if first < second else 2
        if answer != f"Point {nearer} is closer than Point {3 - nearer}.":
            yield f"the answer is {answer!r}, but point {nearer} is closer ({first:.3f} m and {second:.3f} m)"
        if turn["verdict"] != nearer:
            yield f"the recorded verdict is {turn['verdict']}, but point {nearer} is closer"

    def measure(self, question: str, turn: dict[str, Any], views: Sequence[MeasuredView]) -> Iterator[str]:
        yield from measure_points(question, turn, views[0].cues)
        around = depths_around(question, views[0].cues)
        if max(around[turn["verdict"] - 1]) >= min(around[2 - turn["verdict"]]):
            yield "the answer changes if a point moves by half a percent of the image"
