"""The checks of questions about points: the depth at one, the closer of two."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from spatialboost.scenes.cues import Cues
from spatialboost.scenes.questions.checks.lengths import LENGTH, check_length
from spatialboost.scenes.questions.checks.protocol import Check, MeasuredView

POINT = re.compile(r"\((-?\d+\.\d\d), (-?\d+\.\d\d)\)")


def check_named_points(question: str, turn: dict[str, Any], size: Sequence[int], count: int) -> Iterator[str]:
    """Check that the points in the text are the points and pixels of the turn."""
    named = POINT.findall(question)
    if len(named) != count or len(turn["depths"]) != count:
        yield f"expected {count} points in {question!r}, found {len(named)}"
        return
    for x_y, point, pixel in zip(named, turn["points"], turn["pixels"], strict=True):
        if [float(number) for number in x_y] != point:
            yield f"the question has the point {x_y}, the ground truth is {point}"
        if _pixel(x_y, size) != tuple(pixel):
            yield f"point {x_y} lies in pixel {_pixel(x_y, size)}, the ground truth is {pixel}"


def measure_points(question: str, turn: dict[str, Any], cues: Cues) -> Iterator[str]:
    """Check that the depth at the points in the text is the one of the turn, with depth readings around each point."""
    for x_y, recorded in zip(POINT.findall(question), turn["depths"], strict=True):
        row, column = _pixel(x_y, cues.size)
        if not cues.valid_HW[row, column] or abs(float(cues.depth_HW[row, column]) - recorded) > 1e-5:
            yield f"the depth at {x_y} is {cues.depth_HW[row, column]}, but meta has {recorded}"
        if not all(cues.valid_HW[pixel] for pixel in _pixels_around(x_y, cues.size)):
            yield f"there is a pixel without depth reading half a percent of the image away from {x_y}"


def depths_around(question: str, cues: Cues) -> list[list[float]]:
    """For each point in the text: the depths at it and half a percent of the image away in all eight directions."""
    return [
        [float(cues.depth_HW[pixel]) for pixel in _pixels_around(x_y, cues.size)] for x_y in POINT.findall(question)
    ]


def _pixel(x_y: Sequence[str], size: Sequence[int]) -> tuple[int, int]:
    """(row, column) of the pixel that contains a point given as decimal text. Exact."""
    x, y = (Fraction(number) for number in x_y)
    return math.floor(y * size[0]), math.floor(x * size[1])


def _pixels_around(x_y: Sequence[str], size: tuple[int, int]) -> list[tuple[int, int]]:
    x, y = (Fraction(number) for number in x_y)
    steps = (Fraction(-1, 200), Fraction(0), Fraction(1, 200))
    return [(math.floor((y + dy) * size[0]), math.floor((x + dx) * size[1])) for dy in steps for dx in steps]


class DepthCheck(Check):
    """The depth in the answer is the depth at the point in the question."""

    level = 0

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
        yield from check_named_points(question, turn, facts["size"], 1)
        if not re.search(r"\b(?:depth|deep)\b", question) or re.search(r"\b(?:Point \d|closer|nearer)\b", question):
            yield f"the question {question!r} does not ask for a depth"
        stated = re.fullmatch(rf"The depth is ({LENGTH.pattern})\.", answer)
        yield from check_length(stated and stated[1], turn["depths"][0])

    def measure(self, question: str, turn: dict[str, Any], views: Sequence[MeasuredView]) -> Iterator[str]:
        yield from measure_points(question, turn, views[0].cues)


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
