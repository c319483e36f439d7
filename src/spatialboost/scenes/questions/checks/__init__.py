"""The checks of the kinds of question: one file for checks of one subject, and a table of all checks.

Open `protocol` first. A check recomputes each answer from ``meta`` with separate code: nothing here imports the kinds,
the layout, the points or the phrases. The checks share `lengths`, `points`, `boxes` and `across` (several views).
`generated` checks a text of a language model: `statements` reads its claims by the forms in `grammar`, and `claims`
compares them with the layout.
"""

from __future__ import annotations

from spatialboost import errors
from spatialboost.scenes.questions.checks.camera import (
    CameraDirectionCheck,
    CameraRotationCheck,
    CameraTranslationCheck,
)
from spatialboost.scenes.questions.checks.caption import CaptionCheck, CaptionQuestionCheck
from spatialboost.scenes.questions.checks.depths import DepthsCheck
from spatialboost.scenes.questions.checks.objects_across import SameObjectCheck, WhichViewCheck
from spatialboost.scenes.questions.checks.pairs import DistanceCheck, RelationCheck
from spatialboost.scenes.questions.checks.pairs_across import CloserAcrossCheck, DistanceAcrossCheck
from spatialboost.scenes.questions.checks.points import CloserCheck, DepthCheck
from spatialboost.scenes.questions.checks.protocol import Check, MeasuredView
from spatialboost.scenes.questions.checks.vqa import VqaCheck

__all__ = ["CHECKS", "Check", "MeasuredView", "check_named"]

CHECKS: dict[str, Check] = {
    "depth": DepthCheck(),
    "closer": CloserCheck(),
    "left_right": RelationCheck(),
    "above_below": RelationCheck(),
    "front_behind": RelationCheck(),
    "larger_smaller": RelationCheck(),
    "distance": DistanceCheck(),
    "caption": CaptionCheck(),
    "caption_question": CaptionQuestionCheck(),
    "same_object": SameObjectCheck(),
    "which_view": WhichViewCheck(),
    "closer_across": CloserAcrossCheck(),
    "camera_direction": CameraDirectionCheck(),
    "camera_rotation": CameraRotationCheck(),
    "camera_translation": CameraTranslationCheck(),
    "distance_across": DistanceAcrossCheck(),
    "vqa": VqaCheck(),
    "scene_vqa": VqaCheck(),
    "depths": DepthsCheck(),
}


def check_named(kind: str) -> Check:
    """Return the check of this kind of question.

    Example:
        >>> check_named("depth").level
        0

    Raises:
        SpatialBoostError: there is no check for this kind.
    """
    if kind not in CHECKS:
        raise errors.unknown("kind of question", kind, CHECKS)
    return CHECKS[kind]
