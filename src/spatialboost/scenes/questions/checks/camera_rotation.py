"""The check of how the camera turned."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from spatialboost.scenes.questions.checks.across import check_images, check_options, is_clearly_largest, measure_pose
from spatialboost.scenes.questions.checks.protocol import Check, MeasuredView

# For each turn (sideways, up or down, about the optical axis): the words for less than zero and for more.
_TURNS = (("to the left", "to the right"), ("down", "up"), ("counterclockwise", "clockwise"))
_PART = re.compile(r"(\d+) degrees (to the left|to the right|down|up|counterclockwise|clockwise)")


class CameraRotationCheck(Check):
    """The degrees are those between both cameras, and the verdict is the largest turn."""

    level = 2

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
        """Compute the turns again from the poses."""
        yield from check_images(question, turn["images"], facts["images"])
        turns = _degrees(facts["views"][turn["images"][1]]["pose"])
        if max(abs(a - b) for a, b in zip(turns, turn["turns"], strict=True)) > 1e-4:
            yield f"the recorded turns are {turn['turns']}, recomputed {turns}"
        axis = max(range(3), key=lambda i: abs(turns[i]))
        word = _TURNS[axis][turns[axis] > 0]
        if not is_clearly_largest(turns, axis, 3.5, 1.4):
            yield f"the turns {turns} have no clear direction"
        yield from check_options(question, word, _TURNS)
        parts = [(int(degrees), way) for degrees, way in _PART.findall(answer)]
        texts = [f"{degrees} degrees {way}" for degrees, way in parts]
        joined = texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}" if texts else ""
        if answer != f"The camera turned {joined}. Answer: {word}." or turn["verdict"] != word:
            yield f"the answer is {answer!r} ({turn['verdict']}), but the camera turned {word}"
            return
        missing = dict(enumerate(turns))
        for degrees, way in parts:
            i = next(i for i, ways in enumerate(_TURNS) if way in ways)
            if abs(degrees - abs(missing.pop(i, math.inf))) > 0.51 or _TURNS[i][turns[i] > 0] != way:
                yield f"the camera did not turn {degrees} degrees {way}"
        if any(abs(part) > 2 for part in missing.values()):
            yield f"the answer leaves out one of the turns {turns}"

    def measure(self, question: str, turn: dict[str, Any], views: Sequence[MeasuredView]) -> Iterator[str]:
        """Compare with the poses of the views."""
        turns = _degrees(measure_pose(views, turn["images"][1]).tolist())
        if max(abs(a - b) for a, b in zip(turns, turn["turns"], strict=True)) > 1e-3:
            yield f"the turns between the poses of the views are {turns}, but meta has {turn['turns']}"


def _degrees(pose: Sequence[Sequence[float]]) -> list[float]:
    """To the right, up, and clockwise: from the optical axis and the image's axes of the turned camera."""
    forward = [pose[row][2] for row in range(3)]
    right = math.atan2(forward[0], forward[2])
    up = math.atan2(-forward[1], math.hypot(forward[0], forward[2]))
    # The horizontal direction to the right of a camera that looks the same way but was not turned about its axis
    level = (math.cos(right), 0.0, -math.sin(right))
    across = sum(level[row] * pose[row][0] for row in range(3))
    along = sum(level[row] * pose[row][1] for row in range(3))
    return [math.degrees(angle) for angle in (right, up, math.atan2(-along, across))]
