"""How did the camera turn from the first view to another one, in words and degrees?"""

from __future__ import annotations

from typing import Any

import numpy as np

from spatialboost.scenes.questions.across import (
    Motion,
    clear_axis,
    join_parts,
    other_views,
    stated_axes,
    turn_words,
)
from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.turn import CannotAskError, Turn

_LEAST = 4.0  # degrees
_RATIO = 1.5  # the turn is at least this many times any other turn
_STATED = 1.5  # degrees; smaller turns are not stated


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
        for k in other_views(context, rng, told_by=("camera_rotation",)):
            turns_3 = Motion(context.poses[k]).turns_3
            axis = clear_axis(turns_3, _LEAST, _RATIO)
            if axis is not None:
                break
        else:
            raise CannotAskError("the camera did not clearly turn in one direction")
        word, opposite = turn_words(axis, turns_3[axis])
        a, b = (word, opposite) if rng.random() < 0.5 else (opposite, word)
        parts = [
            f"{abs(float(turns_3[i])):.0f} degrees {turn_words(i, turns_3[i])[0]}"
            for i in stated_axes(turns_3, _STATED)
        ]
        facts: dict[str, Any] = {"images": [0, k], "turns": [round(float(part), 6) for part in turns_3]}
        facts["verdict"] = word
        question, facts["template"] = context.word(self.wordings, rng, k=str(k + 1), a=a, b=b)
        return Turn(question, f"The camera turned {join_parts(parts)}. Answer: {word}.", facts)


CAMERA_ROTATION = CameraRotation()
