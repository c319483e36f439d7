"""A question about the caption: how many objects does it name, or which of them is closest or farthest?"""

from __future__ import annotations

from itertools import chain
from typing import Any, ClassVar

import numpy as np

from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.turn import CannotAskError, Turn, choose_wording


class CaptionQuestion(Kind):
    """How many objects the caption names, or which of them is clearly the closest or farthest."""

    name = "caption_question"
    title = "question on the caption"
    level = "caption"
    wordings_of: ClassVar[dict[str, tuple[str, ...]]] = {
        "caption_count": ("How many objects does this description name?", "How many objects are named?"),
        "caption_closest": ("Which of them is the closest to the viewer?", "Which of these objects is nearest?"),
        "caption_farthest": (
            "Which of them is the farthest from the viewer?",
            "Which of these objects is farthest away?",
        ),
    }
    wordings = tuple(chain.from_iterable(wordings_of.values()))
    objects = 1
    follows = "caption"

    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Ask one of the questions that the view supports."""
        view, named = context.view, context.followed["objects"]
        if context.followed.get("generated"):  # it may name other things, whose number and depth nobody knows
            raise CannotAskError("the caption is a text of a language model, which may name things without a mask")
        ends = {"caption_closest": view.extreme(named, closest=True)}
        ends["caption_farthest"] = view.extreme(named, closest=False)
        asks = ["caption_count", *(name for name, winner in ends.items() if winner is not None)]
        asked = asks[rng.integers(len(asks))]
        facts: dict[str, Any] = {"asked": asked, "objects": named}
        question, facts["template"] = choose_wording(self.wordings_of[asked], rng)
        if asked == "caption_count":
            facts["verdict"] = len(named)
            return Turn(question, f"{len(named)} object{'s' if len(named) > 1 else ''}.", facts)
        facts["verdict"] = ends[asked]
        return Turn(question, f"The {view.objects[facts['verdict']].description}.", facts)


CAPTION_QUESTION = CaptionQuestion()
