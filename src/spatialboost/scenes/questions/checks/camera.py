"""The checks of how the camera got from one image to another: which way, how far, and with which turns."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from spatialboost.scenes.questions.checks.across import check_images, measure_pose
from spatialboost.scenes.questions.checks.lengths import LENGTH, ROUNDING, check_length
from spatialboost.scenes.questions.checks.protocol import Check, MeasuredView

Ways = Sequence[tuple[str, str]]  # along each axis: the words for less than zero and for more

# Along each axis of the first camera: right, down, forwards
_MOVES = (("to the left", "to the right"), ("up", "down"), ("backwards", "forwards"))
# Sideways, up or down, about the optical axis
_TURNS = (("to the left", "to the right"), ("down", "up"), ("counterclockwise", "clockwise"))
_MOVED = re.compile(rf"({LENGTH.pattern}) (to the left|to the right|up|down|backwards|forwards)")
_TURNED = re.compile(r"(\d+) degrees (to the left|to the right|down|up|counterclockwise|clockwise)")


class CameraDirectionCheck(Check):
    """The word in the answer is the direction of the largest part of the camera's step."""

    level = 2

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
        yield from check_images(question, turn["images"], facts["images"])
        step = _step(facts, turn)
        if _error(step, turn["step"]) > 2e-6:
            yield f"the recorded step is {turn['step']}, recomputed {step}"
        axis = _largest(step)
        word = _MOVES[axis][step[axis] > 0]
        if not _is_clearly_largest(step, axis, 0.05, 1.8):
            yield f"the step {step} has no clear direction"
        yield from _check_options(question, word, _MOVES)
        if answer != f"The camera moved {word}." or turn["verdict"] != word:
            yield f"the answer is {answer!r} ({turn['verdict']}), but the camera moved {word}"

    def measure(self, question: str, turn: dict[str, Any], views: Sequence[MeasuredView]) -> Iterator[str]:
        yield from _measure_step(turn, views)


class CameraRotationCheck(Check):
    """The degrees are those between both cameras, and the verdict is the largest turn."""

    level = 2

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
        yield from check_images(question, turn["images"], facts["images"])
        turns = _degrees(facts["views"][turn["images"][1]]["pose"])
        if _error(turns, turn["turns"]) > 1e-4:
            yield f"the recorded turns are {turn['turns']}, recomputed {turns}"
        axis = _largest(turns)
        word = _TURNS[axis][turns[axis] > 0]
        if not _is_clearly_largest(turns, axis, 3.5, 1.4):
            yield f"the turns {turns} have no clear direction"
        yield from _check_options(question, word, _TURNS)
        parts = [(int(degrees), way) for degrees, way in _TURNED.findall(answer)]
        joined = _join([f"{degrees} degrees {way}" for degrees, way in parts])
        if answer != f"The camera turned {joined}. Answer: {word}." or turn["verdict"] != word:
            yield f"the answer is {answer!r} ({turn['verdict']}), but the camera turned {word}"
            return
        missing = dict(enumerate(turns))
        for degrees, way in parts:
            i = _axis_of(way, _TURNS)
            if abs(degrees - abs(missing.pop(i, math.inf))) > 0.51 or _TURNS[i][turns[i] > 0] != way:
                yield f"the camera did not turn {degrees} degrees {way}"
        if any(abs(part) > 2 for part in missing.values()):
            yield f"the answer leaves out one of the turns {turns}"

    def measure(self, question: str, turn: dict[str, Any], views: Sequence[MeasuredView]) -> Iterator[str]:
        turns = _degrees(measure_pose(views, turn["images"][1]).tolist())
        if _error(turns, turn["turns"]) > 1e-3:
            yield f"the turns between the poses of the views are {turns}, but meta has {turn['turns']}"


class CameraTranslationCheck(Check):
    """The parts of the step and its length are right, and no large part is missing."""

    level = 2

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
        yield from check_images(question, turn["images"], facts["images"])
        step = _step(facts, turn)
        if _error(step, turn["step"]) > 2 * ROUNDING:
            yield f"the recorded step is {turn['step']}, recomputed {step}"
        length = math.hypot(*step)
        parts = [(found[0], found[3]) for found in _MOVED.findall(answer)]
        stated = re.fullmatch(rf"The camera moved (.+)\. Answer: ({LENGTH.pattern})\.", answer)
        if not stated or stated[1] != _join([f"{metres} {way}" for metres, way in parts]):
            yield f"the answer {answer!r} does not state a step in the expected form"
            return
        yield from check_length(stated[2], length)
        missing = dict(enumerate(step))
        for metres, way in parts:
            i = _axis_of(way, _MOVES)
            yield from check_length(metres, abs(missing.pop(i, math.inf)))
            if _MOVES[i][step[i] > 0] != way:
                yield f"the camera did not move {way}"
        if any(abs(part) > 0.11 * length for part in missing.values()):
            yield f"the answer leaves out a large part of the step {step}"
        if abs(turn["distance"] - length) > 2 * ROUNDING:
            yield f"the recorded distance is {turn['distance']} m, recomputed {length:.6f} m"

    def measure(self, question: str, turn: dict[str, Any], views: Sequence[MeasuredView]) -> Iterator[str]:
        yield from _measure_step(turn, views)


def _step(facts: dict[str, Any], turn: dict[str, Any]) -> list[float]:
    """Right, down, forwards: where the second image was taken, seen from the first, in metres."""
    return [facts["views"][turn["images"][1]]["pose"][row][3] for row in range(3)]


def _measure_step(turn: dict[str, Any], views: Sequence[MeasuredView]) -> Iterator[str]:
    """Compare with the poses of the views."""
    step_3 = measure_pose(views, turn["images"][1])[:3, 3]
    if not np.allclose(step_3, turn["step"], atol=1e-5):
        yield f"the step between the poses of the views is {step_3.round(4).tolist()}, but meta has {turn['step']}"


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


def _error(values: Sequence[float], recorded: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(values, recorded, strict=True))


def _largest(values: Sequence[float]) -> int:
    return max(range(3), key=lambda i: abs(values[i]))


def _is_clearly_largest(values: Sequence[float], axis: int, least: float, ratio: float) -> bool:
    """Whether a value is at least this large and at least this many times any other."""
    others = [abs(value) for i, value in enumerate(values) if i != axis]
    return abs(values[axis]) >= least and abs(values[axis]) >= ratio * max(others)


def _axis_of(way: str, ways: Ways) -> int:
    return next(i for i, pair in enumerate(ways) if way in pair)


def _join(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)


def _check_options(question: str, word: str, ways: Ways) -> Iterator[str]:
    """Check that a question offers a word and its opposite, and no other way."""
    pair = ways[_axis_of(word, ways)]
    if {way for each in ways for way in each if re.search(rf"\b{way}\b", question)} != set(pair):
        yield f"the question {question!r} does not offer {pair[0]!r} and {pair[1]!r} alone"
