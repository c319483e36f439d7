"""How far apart are two objects?"""

from __future__ import annotations

from typing import Any

import numpy as np

from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.kinds.relations import ABOVE_BELOW, FRONT_BEHIND, LEFT_RIGHT
from spatialboost.scenes.questions.layout import measure_distance
from spatialboost.scenes.questions.phrases import format_length
from spatialboost.scenes.questions.scoring import LENGTH
from spatialboost.scenes.questions.turn import CannotAskError, Turn, choose_wording


class Distance(Kind):
    """The distance between the centres of two objects. The answer begins with one true relation between them."""

    name = "distance"
    title = "distance"
    level = "scene"
    wordings = ("How far is the {a} from the {b}?", "What is the distance between the {a} and the {b}?")
    objects = 2
    scoring = LENGTH

    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Ask about two objects that are clearly apart."""
        view = context.view
        for i, j in view.pairs(rng):
            a, b = view.objects[i], view.objects[j]
            clear = [kind for kind in (LEFT_RIGHT, ABOVE_BELOW, FRONT_BEHIND) if view.compare(kind.name, i, j)]
            metres = measure_distance(a, b, view.cues.depth_noise)
            if clear and metres is not None:
                break
        else:
            raise CannotAskError("no two objects are clearly apart, so no distance can be asked")
        relation = clear[rng.integers(len(clear))]
        word = relation.words[0 if view.compare(relation.name, i, j) == 1 else 1]
        facts: dict[str, Any] = {"objects": [i, j], "relation": relation.name, "holds": word}
        facts["distance"] = round(metres, 6)
        question, facts["template"] = choose_wording(self.wordings, rng, a=a.description, b=b.description)
        answer = f"{relation.reason(view, i, j, word)} Answer: {format_length(facts['distance'])}."
        return Turn(question, answer, facts)


DISTANCE = Distance()
