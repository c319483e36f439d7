"""How far apart are two objects?"""

from __future__ import annotations

from typing import Any

import numpy as np

from spatialboost.scenes.questions import wordings
from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.kinds.relations import ABOVE_BELOW, FRONT_BEHIND, LEFT_RIGHT
from spatialboost.scenes.questions.layout import measure_distance
from spatialboost.scenes.questions.phrases import format_length
from spatialboost.scenes.questions.scoring import LENGTH
from spatialboost.scenes.questions.turn import CannotAskError, Turn


class Distance(Kind):
    """The distance between the centres of two objects. The answer begins with one true relation between them."""

    name = "distance"
    title = "distance"
    level = "scene"
    wordings = wordings.DISTANCE
    objects = 2
    scoring = LENGTH

    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Ask about two objects that are clearly apart."""
        view = context.view
        stated = {frozenset(turn["objects"]) for turn in context.earlier if "holds" in turn}
        for i, j in sorted(view.pairs(rng), key=lambda pair: frozenset(pair) in stated):
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
        question, facts["template"] = context.word(self.wordings, rng, a=a.description, b=b.description)
        reason = relation.reason((a.description, a), (b.description, b), word)
        return Turn(question, f"{reason} Answer: {format_length(facts['distance'])}.", facts)


DISTANCE = Distance()
