"""Which way did the camera move from the first view to another one?"""

from __future__ import annotations

from typing import Any

import numpy as np

from spatialboost.scenes.questions.across import Motion, clear_axis, direction_words, other_views
from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.turn import CannotAskError, Turn

_LEAST = 0.08  # metres
_RATIO = 2.0  # the step along the axis is at least this many times the step along any other axis


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
        for k in other_views(context, rng, told_by=("camera_direction", "camera_translation")):
            step_3 = Motion(context.poses[k]).step_3
            axis = clear_axis(step_3, _LEAST, _RATIO)
            if axis is not None:
                break
        else:
            raise CannotAskError("the camera did not clearly move along one direction")
        word, opposite = direction_words(axis, step_3[axis])
        a, b = (word, opposite) if rng.random() < 0.5 else (opposite, word)
        facts: dict[str, Any] = {"images": [0, k], "step": [round(float(part), 6) for part in step_3]}
        facts["verdict"] = word
        question, facts["template"] = context.word(self.wordings, rng, k=str(k + 1), a=a, b=b)
        return Turn(question, f"The camera moved {word}.", facts)


CAMERA_DIRECTION = CameraDirection()
