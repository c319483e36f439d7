"""What is the depth at this point?"""

from __future__ import annotations

import numpy as np

from spatialboost.scenes.questions import wordings
from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.phrases import format_length, format_point
from spatialboost.scenes.questions.scoring import LENGTH
from spatialboost.scenes.questions.turn import Turn


class Depth(Kind):
    """The depth at a point."""

    name = "depth"
    title = "depth at a point"
    level = "pixel"
    wordings = wordings.DEPTH
    scoring = LENGTH

    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Ask about a point that is not on an edge. Its coordinates tell little about its depth."""
        picker = context.view.picker
        point = picker.pick_level(rng) if context.view.plan.wordings is None else picker.pick(rng)
        facts = context.view.point_facts([point])
        question, facts["template"] = context.word(self.wordings, rng, point=format_point(point))
        return Turn(question, f"The depth is {format_length(facts['depths'][0])}.", facts)


DEPTH = Depth()
