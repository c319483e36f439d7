"""The check of the depths at several points."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from spatialboost.scenes.questions.checks.lengths import ROUNDING
from spatialboost.scenes.questions.checks.points import POINT, check_named_points, measure_points
from spatialboost.scenes.questions.checks.protocol import Check, MeasuredView

_STATED = re.compile(rf"({POINT.pattern}): (\d+\.\d)")


class DepthsCheck(Check):
    """The answer repeats the points of the question in their order, each with its depth in metres with one decimal."""

    level = 0

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
        """Compare text, points and depths."""
        if len(turn["points"]) < 2 or len({tuple(point) for point in turn["points"]}) < len(turn["points"]):
            yield f"expected at least two different points, found {turn['points']}"
        yield from check_named_points(question, turn, facts["size"], len(turn["points"]))
        if not re.search(r"\b(?:depths?|deep)\b", question.lower()) or "meters" not in question:
            yield f"the question {question!r} does not ask for depths in meters"
        stated = [_STATED.fullmatch(part) for part in answer.removesuffix(".").split("; ")]
        if None in stated or not answer.endswith("."):
            yield f"the answer {answer!r} is not a list of points with depths"
            return
        named = [found[1] for found in stated if found is not None]
        if named != [found[0] for found in POINT.finditer(question)]:
            yield f"the points {named} of the answer are not those of the question in their order"
        for found, depth in zip(stated, turn["depths"], strict=False):
            if found is not None and abs(float(found[4]) - depth) > 0.05 + 2 * ROUNDING:
                yield f"the answer says {found[4]} m at {found[1]}, the ground truth is {depth:.6f} m"

    def measure(self, question: str, turn: dict[str, Any], views: Sequence[MeasuredView]) -> Iterator[str]:
        """Read the depth map at the points."""
        yield from measure_points(question, turn, views[0].cues)
