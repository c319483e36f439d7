"""Points in questions: that they name the pixels in `meta`, and that the depth there is what `meta` says."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from spatialboost.scenes.cues import Cues

POINT = re.compile(r"\((-?\d+\.\d\d), (-?\d+\.\d\d)\)")


def check_named_points(question: str, turn: dict[str, Any], size: Sequence[int], count: int) -> Iterator[str]:
    """The points in the text are the points and pixels of the turn."""
    named = POINT.findall(question)
    if len(named) != count or len(turn["depths"]) != count:
        yield f"expected {count} points in {question!r}, found {len(named)}"
        return
    for x_y, point, pixel in zip(named, turn["points"], turn["pixels"], strict=True):
        if [float(part) for part in x_y] != point:
            yield f"the question names {x_y}, the ground truth is of {point}"
        if _pixel(x_y, size) != tuple(pixel):
            yield f"point {x_y} lies in pixel {_pixel(x_y, size)}, the ground truth is of {pixel}"


def measure_points(question: str, turn: dict[str, Any], cues: Cues) -> Iterator[str]:
    """The depth at the coordinates in the text is that of the turn, and there are readings around them."""
    for x_y, recorded in zip(POINT.findall(question), turn["depths"], strict=True):
        row, column = _pixel(x_y, cues.size)
        if not cues.valid_HW[row, column] or abs(float(cues.depth_HW[row, column]) - recorded) > 1e-5:
            yield f"the depth at {x_y} is {cues.depth_HW[row, column]}, meta says {recorded}"
        if not all(cues.valid_HW[pixel] for pixel in _pixels_around(x_y, cues.size)):
            yield f"half a percent beside {x_y} there is no depth reading"


def depths_around(question: str, cues: Cues) -> list[list[float]]:
    """For each point in the text: the depths at it and half a percent of the image away in all eight directions."""
    return [
        [float(cues.depth_HW[pixel]) for pixel in _pixels_around(x_y, cues.size)] for x_y in POINT.findall(question)
    ]


def _pixel(x_y: Sequence[str], size: Sequence[int]) -> tuple[int, int]:
    """(row, column) of the pixel that holds a point given as decimal text; exact."""
    x, y = (Fraction(part) for part in x_y)
    return math.floor(y * size[0]), math.floor(x * size[1])


def _pixels_around(x_y: Sequence[str], size: tuple[int, int]) -> list[tuple[int, int]]:
    x, y = (Fraction(part) for part in x_y)
    steps = (Fraction(-1, 200), Fraction(0), Fraction(1, 200))
    return [(math.floor((y + dy) * size[0]), math.floor((x + dx) * size[1])) for dy in steps for dx in steps]
