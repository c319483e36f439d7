"""The kinds of question: one file for kinds of one subject, and a table of all kinds.

Open `protocol` first: it defines the interface of a kind. To add a kind, write its file here and its check in
`spatialboost.scenes.questions.checks`, and add one line to the table of each folder. Turns are drawn by level and,
within a level, in the order of the table. So add a new kind at the end: then a seed still gives the same other turns.
"""

from __future__ import annotations

from spatialboost import errors
from spatialboost.scenes.questions.kinds.camera import CAMERA_DIRECTION, CAMERA_ROTATION, CAMERA_TRANSLATION
from spatialboost.scenes.questions.kinds.caption import CAPTION, CAPTION_QUESTION
from spatialboost.scenes.questions.kinds.closer import CLOSER
from spatialboost.scenes.questions.kinds.depth import DEPTH
from spatialboost.scenes.questions.kinds.depths import DEPTHS
from spatialboost.scenes.questions.kinds.objects_across import SAME_OBJECT, WHICH_VIEW
from spatialboost.scenes.questions.kinds.pairs import ABOVE_BELOW, DISTANCE, FRONT_BEHIND, LARGER_SMALLER, LEFT_RIGHT
from spatialboost.scenes.questions.kinds.pairs_across import CLOSER_ACROSS, DISTANCE_ACROSS
from spatialboost.scenes.questions.kinds.protocol import LEVELS, Context, Kind
from spatialboost.scenes.questions.kinds.vqa import SCENE_VQA, VQA
from spatialboost.scenes.questions.scoring import VERDICT, Scoring

__all__ = ["KINDS", "LEVELS", "Context", "Kind", "kind_named", "scoring_of"]

KINDS: dict[str, Kind] = {
    "depth": DEPTH,
    "closer": CLOSER,
    "left_right": LEFT_RIGHT,
    "above_below": ABOVE_BELOW,
    "front_behind": FRONT_BEHIND,
    "larger_smaller": LARGER_SMALLER,
    "distance": DISTANCE,
    "caption": CAPTION,
    "caption_question": CAPTION_QUESTION,
    "same_object": SAME_OBJECT,
    "which_view": WHICH_VIEW,
    "closer_across": CLOSER_ACROSS,
    "camera_direction": CAMERA_DIRECTION,
    "camera_rotation": CAMERA_ROTATION,
    "camera_translation": CAMERA_TRANSLATION,
    "distance_across": DISTANCE_ACROSS,
    "vqa": VQA,
    "scene_vqa": SCENE_VQA,
    "depths": DEPTHS,
}


def kind_named(name: str) -> Kind:
    """Return the kind with this name.

    Example:
        >>> kind_named("depth").level
        'pixel'

    Raises:
        SpatialBoostError: there is no such kind.
    """
    if name not in KINDS:
        raise errors.unknown("kind of question", name, KINDS)
    return KINDS[name]


def scoring_of(name: str) -> Scoring:
    """The scoring of a kind of question. An unknown kind, as a data set may have, is scored by its verdict.

    Example:
        >>> scoring_of("depth").right("The depth is 2.0 meters.", "The depth is 2.500 meters.")
        True
    """
    return KINDS[name].scoring if name in KINDS else VERDICT
