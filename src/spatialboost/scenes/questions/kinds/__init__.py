"""The kinds of question: one file a kind, and the table of all of them.

Open `protocol` first: it says what a kind has to say of itself. To add a kind, write its file here and its check in
`spatialboost.scenes.questions.checks`, and add one line to the table of each folder. Turns are drawn by level and,
within a level, in the order of the table: add new kinds at its end, and every seed goes on to ask what it asked before.
"""

from __future__ import annotations

from spatialboost import errors
from spatialboost.scenes.questions.kinds.caption import CAPTION
from spatialboost.scenes.questions.kinds.caption_question import CAPTION_QUESTION
from spatialboost.scenes.questions.kinds.closer import CLOSER
from spatialboost.scenes.questions.kinds.depth import DEPTH
from spatialboost.scenes.questions.kinds.distance import DISTANCE
from spatialboost.scenes.questions.kinds.protocol import LEVELS, Context, Kind
from spatialboost.scenes.questions.kinds.relations import ABOVE_BELOW, FRONT_BEHIND, LARGER_SMALLER, LEFT_RIGHT
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
}


def kind_named(name: str) -> Kind:
    """The kind of this name.

    Example:
        >>> kind_named("depth").level
        'pixel'

    Raises:
        SpatialBoostError: no such kind.
    """
    if name not in KINDS:
        raise errors.unknown("kind of question", name, KINDS)
    return KINDS[name]


def scoring_of(name: str) -> Scoring:
    """How replies to a kind of question are scored; by their verdict where a data set names a kind that is not known.

    Example:
        >>> scoring_of("depth").right("The depth is 2.0 meters.", "The depth is 2.500 meters.")
        True
    """
    return KINDS[name].scoring if name in KINDS else VERDICT
