"""What is in this scene?"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from spatialboost.scenes.questions.checks.generated import check_text, named_in
from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.phrases import format_list
from spatialboost.scenes.questions.turn import CannotAskError, Turn, choose_wording

_MAX_NAMED = 6


class Caption(Kind):
    """The caption that an extractor wrote (``facts["caption"]``), if it is true; otherwise one from a template.

    The template names the objects, and the closest one if one is clearly closest.
    """

    name = "caption"
    title = "caption"
    level = "caption"
    wordings = ("Explain this scene.", "Describe this scene.")
    objects = 1
    texts = "caption"

    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Name the objects with the most pixels, sorted by their column in the image."""
        view = context.view
        text = view.cues.facts.get("caption")
        if text is not None and not list(check_text(text, [view.facts])):
            question, template = choose_wording(self.wordings, rng)
            facts = {"objects": named_in(text, view.facts), "generated": True, "template": template}
            return Turn(question, text, facts)
        if not view.objects:
            raise CannotAskError("0 usable objects, but the question needs 1")
        largest = sorted(range(len(view.objects)), key=lambda i: -view.objects[i].pixels)[:_MAX_NAMED]
        named = sorted(largest, key=lambda i: view.objects[i].centre_xy)
        closest = view.extreme(named, closest=True)
        ordered = len(named) > 1 and all(view.compare("left_right", i, j) == 1 for i, j in pairwise(named))
        start = "From left to right, the" if ordered else "The"
        answer = f"{start} scene shows {format_list([view.objects[i].description for i in named])}."
        if closest is not None:
            answer += f" The {view.objects[closest].description} is the closest to the viewer."
        question, template = choose_wording(self.wordings, rng)
        return Turn(question, answer, {"objects": named, "ordered": ordered, "closest": closest, "template": template})


CAPTION = Caption()
