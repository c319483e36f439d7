"""What is the depth at this point?"""

from __future__ import annotations

import numpy as np

from spatialboost.scenes.questions import wordings
from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.phrases import format_length, format_point
from spatialboost.scenes.questions.points import Point
from spatialboost.scenes.questions.scoring import LENGTH
from spatialboost.scenes.questions.turn import CannotAskError, Turn


class Depth(Kind):
    """The depth at a point."""

    name = "depth"
    title = "depth at a point"
    level = "pixel"
    wordings = wordings.DEPTH
    scoring = LENGTH

    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Ask about a point that is not on an edge. Its coordinates tell little of its depth (not for cells)."""
        picker = context.view.picker
        if context.view.plan.cells is not None:
            point = _fresh_cell(context, rng)
        else:
            point = picker.pick_level(rng) if context.view.plan.balances_points else picker.pick(rng)
        facts = context.view.point_facts([point])
        question, facts["template"] = context.word(self.wordings, rng, point=format_point(point))
        return Turn(question, f"The depth is {format_length(facts['depths'][0])}.", facts)


def _fresh_cell(context: Context, rng: np.random.Generator) -> Point:
    """The centre of a cell that no earlier turn has asked for its depth."""
    points = [turn["points"][0] for turn in context.earlier if turn["kind"] == "depth"]
    asked = [(round(100 * x), round(100 * y)) for x, y in points]
    found = context.view.picker.pick_several(rng, 1, without=asked)
    if not found:
        raise CannotAskError("every cell with a steady depth has been asked for its depth")
    return found[0]


DEPTH = Depth()
