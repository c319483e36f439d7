"""What is in this scene?"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from spatialboost.scenes.questions import wordings
from spatialboost.scenes.questions.checks.generated import check_text, named_in, pairs_told
from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.phrases import format_list
from spatialboost.scenes.questions.turn import CannotAskError, Turn

_MAX_NAMED = 6


class Caption(Kind):
    """The caption that an extractor wrote (``facts["caption"]``), if it is true; otherwise one from a template.

    The template names the objects. Half of the time it also names the closest object if one is clearly closest.
    """

    name = "caption"
    title = "caption"
    level = "caption"
    wordings = wordings.CAPTION
    objects = 1
    texts = "caption"

    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Name the objects with the most pixels, sorted by their column in the image."""
        view = context.view
        text = view.cues.facts.get("caption")
        if text is not None and not list(check_text(text, [view.facts])):
            question, template = context.word(self.wordings, rng)
            facts: dict[str, Any] = {"objects": named_in(text, view.facts), "told": pairs_told(text, view.facts)}
            return Turn(question, text, {**facts, "closest": None, "generated": True, "template": template})
        if not view.objects:
            raise CannotAskError("0 usable objects, but the question needs 1")
        largest = sorted(range(len(view.objects)), key=lambda i: -view.objects[i].pixels)[:_MAX_NAMED]
        named = sorted(largest, key=lambda i: view.objects[i].centre_xy)
        # In half of the captions only, so that the question about the caption can ask for it
        tell = len(named) > 2 and rng.random() < 0.5
        closest = view.extreme(named, closest=True) if tell else None
        ordered = len(named) > 1 and all(view.compare("left_right", i, j) == 1 for i, j in pairwise(named))
        start = "From left to right, the" if ordered else "The"
        answer = f"{start} scene shows {format_list([view.objects[i].description for i in named])}."
        if closest is not None:
            answer += f" The {view.objects[closest].description} is the closest to the viewer."
        question, template = context.word(self.wordings, rng)
        return Turn(question, answer, {"objects": named, "ordered": ordered, "closest": closest, "template": template})


CAPTION = Caption()
