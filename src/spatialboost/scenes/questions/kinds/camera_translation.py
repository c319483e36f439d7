"""How far did the camera move from the first view to another one, in words and metres?"""

from __future__ import annotations

from typing import Any

import numpy as np

from spatialboost.scenes.questions.across import Motion, direction_words, join_parts, other_views, stated_axes
from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.phrases import format_length
from spatialboost.scenes.questions.scoring import LENGTH
from spatialboost.scenes.questions.turn import CannotAskError, Turn

_LEAST = 0.05  # metres
_STATED = 0.1  # fraction of the whole step; smaller parts are not stated


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
        for k in other_views(context, rng, told_by=("camera_direction", "camera_translation")):
            step_3 = Motion(context.poses[k]).step_3
            length = float(np.linalg.norm(step_3))
            if length >= _LEAST:
                break
        else:
            raise CannotAskError("no further view was clearly taken at another place")
        parts = [
            f"{format_length(abs(float(step_3[i])))} {direction_words(i, step_3[i])[0]}"
            for i in stated_axes(step_3, _STATED * length)
        ]
        facts: dict[str, Any] = {"images": [0, k], "step": [round(float(part), 6) for part in step_3]}
        facts["distance"] = round(length, 6)
        question, facts["template"] = context.word(self.wordings, rng, k=str(k + 1))
        return Turn(
            question, f"The camera moved {join_parts(parts)}. Answer: {format_length(facts['distance'])}.", facts
        )


CAMERA_TRANSLATION = CameraTranslation()
