"""Which of two points is closer?"""

from __future__ import annotations

import numpy as np

from spatialboost.scenes.questions import wordings
from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.phrases import format_point
from spatialboost.scenes.questions.turn import Turn


class Closer(Kind):
    """Which of two points is closer to the viewer."""

    name = "closer"
    title = "closer point"
    level = "pixel"
    wordings = wordings.CLOSER

    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Ask about two points of clearly different depth. Point 1 is the closer one half of the time."""
        view = context.view
        pick = view.picker.pick_matched_pair if view.plan.balances_points else view.picker.pick_pair
        first, second = pick(rng)
        pair = [first, second] if rng.random() < 0.5 else [second, first]
        facts = view.point_facts(pair)
        closer = facts["verdict"] = 1 if facts["depths"][0] < facts["depths"][1] else 2
        question, facts["template"] = context.word(
            self.wordings, rng, point1=format_point(pair[0]), point2=format_point(pair[1])
        )
        return Turn(question, f"Point {closer} is closer than Point {3 - closer}.", facts)


CLOSER = Closer()
