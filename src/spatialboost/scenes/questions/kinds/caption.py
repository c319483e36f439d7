"""What is in this scene?"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from spatialboost.scenes.questions import wordings
from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.phrases import format_list
from spatialboost.scenes.questions.turn import Turn

_MAX_NAMED = 6


class Caption(Kind):
    """A caption that names the objects. Half of the time it also names the closest object if one is clearly closest."""

    name = "caption"
    title = "caption"
    level = "caption"
    wordings = wordings.CAPTION
    objects = 1

    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Name the objects with the most pixels, sorted by their column in the image."""
        view = context.view
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
