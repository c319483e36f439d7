"""How far is an object of the first view from an object of another view?"""

from __future__ import annotations

from typing import Any

import numpy as np

from spatialboost.scenes.questions.across import Seen, objects_in, other_views
from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.layout import SIGMAS
from spatialboost.scenes.questions.phrases import format_length
from spatialboost.scenes.questions.scoring import LENGTH
from spatialboost.scenes.questions.turn import CannotAskError, Turn


class DistanceAcross(Kind):
    """The distance between the centres of two objects of different views. The answer begins with both positions."""

    name = "distance_across"
    title = "distance across views"
    level = "scene"
    wordings = (
        "How far is the {a} in image 1 from the {b} in image {k}?",
        "What is the distance between the {a} in image 1 and the {b} in image {k}?",
        "How far apart are the {a} in image 1 and the {b} in image {k}?",
        "How many meters are there between the {a} in image 1 and the {b} in image {k}?",
        "Measure the distance from the {a} in image 1 to the {b} in image {k}.",
        "How long is the straight line from the {a} in image 1 to the {b} in image {k}?",
        "What separates the {a} in image 1 from the {b} in image {k}, in meters?",
        "Give the distance of the {a} in image 1 to the {b} in image {k}.",
    )
    objects = 1
    views = 2
    scoring = LENGTH

    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Ask about two different objects that are clearly apart."""
        for k in other_views(context, rng):
            for a, b in pairs_of_views(context, k, rng):
                metres = float(np.linalg.norm(a.centre_3 - b.centre_3))
                if metres > SIGMAS * float(np.hypot(a.noise_m, b.noise_m)) + 0.05:
                    return self._turn(a, b, metres, rng)
        raise CannotAskError("no object of image 1 and no different object of another image are clearly apart")

    def _turn(self, a: Seen, b: Seen, metres: float, rng: np.random.Generator) -> Turn:
        names, k = [seen.plain_name or seen.description for seen in (a, b)], str(b.view + 1)
        facts: dict[str, Any] = {"images": [0, b.view], "objects": [a.number, b.number], "names": names}
        facts["distance"], facts["known_by"] = round(metres, 6), "source" if a.knows(b) else "overlap"
        question, facts["template"] = a.context.word(self.wordings, rng, a=names[0], b=names[1], k=k)
        first, second = (_format_place(seen.centre_3) for seen in (a, b))
        answer = (
            f"In the frame of image 1 (right, down, forward, in meters), the {names[0]} in image 1 is at {first} and "
            f"the {names[1]} in image {k} is at {second}. Answer: {format_length(facts['distance'])}."
        )
        return Turn(question, answer, facts)


def pairs_of_views(context: Context, view: int, rng: np.random.Generator) -> list[tuple[Seen, Seen]]:
    """Pairs of an object of the first view and a different object of another view, in random order.

    Pairs whose second object the first view does not show come first: only these need both views.
    """
    firsts, others = objects_in(context, 0), objects_in(context, view)
    pairs = [(a, b) for a in firsts for b in others if a.same_as(b) is False]
    hidden = {b.number: b.is_hidden_in(0) for b in others}
    shuffled = [pairs[i] for i in rng.permutation(len(pairs))]
    return sorted(shuffled, key=lambda pair: not hidden[pair[1].number])


def _format_place(place_3: np.ndarray) -> str:
    return f"({', '.join(f'{part + 0.0:.2f}' for part in place_3.round(2))})"


DISTANCE_ACROSS = DistanceAcross()
