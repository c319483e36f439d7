"""How did the camera get from the first view to another one: which way, how far, and with which turns?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from spatialboost.scenes.questions.across import other_views
from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.phrases import format_length, join_parts
from spatialboost.scenes.questions.scoring import LENGTH
from spatialboost.scenes.questions.turn import CannotAskError, Turn

Ways = tuple[tuple[str, str], ...]  # along each axis: the words for less than zero and for more

# Along each axis of the first camera: right, down, forwards
_MOVES: Ways = (("to the left", "to the right"), ("up", "down"), ("backwards", "forwards"))
# Sideways, up or down, about the optical axis
_TURNS: Ways = (("to the left", "to the right"), ("down", "up"), ("counterclockwise", "clockwise"))
_LEAST_STEP, _LEAST_LENGTH, _LEAST_TURN = 0.08, 0.05, 4.0  # metres, metres, degrees: what is asked about
# The largest step or turn is at least this many times any other
_STEP_RATIO, _TURN_RATIO = 2.0, 1.5
_STATED_PART, _STATED_TURN = 0.1, 1.5  # fraction of the whole step, degrees; smaller ones are not stated


class CameraDirection(Kind):
    """Which of two opposite ways the camera moved, as seen from the first view."""

    name = "camera_direction"
    title = "direction of the camera's move"
    level = "scene"
    wordings = (
        "From image 1 to image {k}, did the camera move {a} or {b}?",
        "Between image 1 and image {k}, did the camera move {a} or {b}?",
        "Did the camera move {a} or {b} from image 1 to image {k}?",
        "Which way did the camera move from image 1 to image {k}: {a} or {b}?",
        "Going from image 1 to image {k}, does the camera move {a} or {b}?",
        "In which direction did the camera mainly move from image 1 to image {k}, {a} or {b}?",
        "Seen from image 1, did the camera move {a} or {b} to take image {k}?",
        "To get from the place of image 1 to the place of image {k}, must the camera move {a} or {b}?",
    )
    views = 2

    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Ask about the axis of the first camera along which the step is clearly the largest."""
        told_by = ("camera_direction", "camera_translation")
        for k in other_views(context, rng, told_by):
            step_3 = step_of(context.poses[k])
            axis = _clear_axis(step_3, _LEAST_STEP, _STEP_RATIO)
            if axis is not None:
                word = _word(_MOVES, step_3, axis)
                facts = {"images": [0, k], "step": _rounded(step_3), "verdict": word}
                return _offering(self, context, rng, _MOVES[axis], facts, f"The camera moved {word}.")
        raise CannotAskError("the camera did not clearly move along one direction")


class CameraRotation(Kind):
    """Which of two opposite ways the camera turned, and by how many degrees."""

    name = "camera_rotation"
    title = "turn of the camera"
    level = "scene"
    wordings = (
        "From image 1 to image {k}, did the camera turn {a} or {b}, and by how many degrees?",
        "Between image 1 and image {k}, did the camera turn {a} or {b}? By what angle?",
        "Did the camera turn {a} or {b} from image 1 to image {k}, and how far in degrees?",
        "Which way did the camera turn from image 1 to image {k}: {a} or {b}? Give the angle, too.",
        "By how many degrees did the camera turn from image 1 to image {k}, and was it {a} or {b}?",
        "Was the camera turned {a} or {b} to take image {k} after image 1? State the angle in degrees.",
        "How did the camera's direction change from image 1 to image {k}, {a} or {b}, and by what angle?",
        "Compared with image 1, is the camera of image {k} turned {a} or {b}? Say by how many degrees.",
    )
    views = 2

    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Ask about the turn (sideways, up or down, about the optical axis) that is clearly the largest."""
        for k in other_views(context, rng, ("camera_rotation",)):
            turns_3 = turns_of(context.poses[k])
            axis = _clear_axis(turns_3, _LEAST_TURN, _TURN_RATIO)
            if axis is not None:
                word = _word(_TURNS, turns_3, axis)
                facts = {"images": [0, k], "turns": _rounded(turns_3), "verdict": word}
                said = _parts(_TURNS, turns_3, _STATED_TURN, lambda angle: f"{angle:.0f} degrees")
                answer = f"The camera turned {said}. Answer: {word}."
                return _offering(self, context, rng, _TURNS[axis], facts, answer)
        raise CannotAskError("the camera did not clearly turn in one direction")


class CameraTranslation(Kind):
    """The camera's step along each axis of the first view, and its length.

    The answer contains that of `camera_direction`, so a conversation does not ask both about the same two views.
    """

    name = "camera_translation"
    title = "length of the camera's move"
    level = "scene"
    wordings = (
        "How far did the camera move from image 1 to image {k}, and in which directions?",
        "From image 1 to image {k}, how far did the camera move, and which way?",
        "By how much did the camera move between image 1 and image {k}?",
        "What is the distance between the cameras of image 1 and image {k}? Name its parts, too.",
        "Where was image {k} taken, compared with image 1, and how far away is this place?",
        "How did the position of the camera change from image 1 to image {k}?",
        "How far apart are the places where image 1 and image {k} were taken?",
        "Describe the camera's move from image 1 to image {k} with its length.",
    )
    views = 2
    scoring = LENGTH

    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Ask about a view that was taken somewhere else than the first."""
        for k in other_views(context, rng, ("camera_direction", "camera_translation")):
            step_3 = step_of(context.poses[k])
            length = float(np.linalg.norm(step_3))
            if length >= _LEAST_LENGTH:
                said = _parts(_MOVES, step_3, _STATED_PART * length, format_length)
                facts: dict[str, Any] = {"images": [0, k], "step": _rounded(step_3), "distance": round(length, 6)}
                question, facts["template"] = context.word(self.wordings, rng, k=str(k + 1))
                return Turn(question, f"The camera moved {said}. Answer: {format_length(facts['distance'])}.", facts)
        raise CannotAskError("no further view was clearly taken at another place")


def step_of(pose_44: np.ndarray) -> np.ndarray:
    """Right, down, forwards, in metres: the step of a camera whose pose is in the frame of the first one."""
    return pose_44[:3, 3]


def turns_of(pose_44: np.ndarray) -> np.ndarray:
    """Degrees: to the right, up, and clockwise as the camera sees it; the last two after the first."""
    right = np.arctan2(pose_44[0, 2], pose_44[2, 2])
    up = np.arcsin(np.clip(-pose_44[1, 2], -1, 1))
    return np.degrees([right, up, np.arctan2(pose_44[1, 0], pose_44[1, 1])])


def _clear_axis(values_3: np.ndarray, least: float, ratio: float) -> int | None:
    """The axis along which a step or a turn is clearly the largest; None if there is no such axis."""
    _, middle, large = np.argsort(np.abs(values_3)).tolist()
    size = abs(values_3[large])
    return large if size >= least and size >= ratio * abs(values_3[middle]) else None


def _word(ways: Ways, values_3: np.ndarray, axis: int) -> str:
    return ways[axis][int(values_3[axis] > 0)]


def _parts(ways: Ways, values_3: np.ndarray, least: float, text: Callable[[float], str]) -> str:
    """All steps or turns of at least this size in words, the largest first."""
    axes = [axis for axis in np.argsort(-np.abs(values_3)).tolist() if abs(values_3[axis]) >= least]
    return join_parts([f"{text(abs(float(values_3[axis])))} {_word(ways, values_3, axis)}" for axis in axes])


def _rounded(values_3: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in values_3]


def _offering(
    kind: Kind, context: Context, rng: np.random.Generator, ways: tuple[str, str], facts: dict[str, Any], answer: str
) -> Turn:
    """A question that offers the true word and its opposite, in random order."""
    word = facts["verdict"]
    opposite = ways[1 - ways.index(word)]
    a, b = (word, opposite) if rng.random() < 0.5 else (opposite, word)
    question, facts["template"] = context.word(kind.wordings, rng, k=str(facts["images"][1] + 1), a=a, b=b)
    return Turn(question, answer, facts)


CAMERA_DIRECTION = CameraDirection()
CAMERA_ROTATION = CameraRotation()
CAMERA_TRANSLATION = CameraTranslation()
