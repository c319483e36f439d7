"""Which of two points is closer?"""

from __future__ import annotations

import numpy as np

from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.phrases import format_point
from spatialboost.scenes.questions.turn import Turn, choose_wording


class Closer(Kind):
    """Which of two points is closer to the viewer."""

    name = "closer"
    title = "closer point"
    level = "pixel"
    wordings = (
        "Which point is close to a viewer? Point 1 : {point1} Point 2 : {point2}",  # the paper's own wording
        "Which point is closer to the viewer? Point 1 : {point1} Point 2 : {point2}",
    )

    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Ask about two points of clearly different depth. Point 1 is the closer one half of the time."""
        first, second = context.view.picker.pick_pair(rng)
        pair = [first, second] if rng.random() < 0.5 else [second, first]
        facts = context.view.point_facts(pair)
        closer = facts["verdict"] = 1 if facts["depths"][0] < facts["depths"][1] else 2
        question, facts["template"] = choose_wording(
            self.wordings, rng, point1=format_point(pair[0]), point2=format_point(pair[1])
        )
        return Turn(question, f"Point {closer} is closer than Point {3 - closer}.", facts)


CLOSER = Closer()
