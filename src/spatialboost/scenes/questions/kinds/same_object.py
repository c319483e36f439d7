"""Is a named object of the first view the same as the one at a point of another view?"""

from __future__ import annotations

from typing import Any

import numpy as np

from spatialboost.scenes.questions.across import Seen, objects_in, other_views, point_on
from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.phrases import format_point
from spatialboost.scenes.questions.points import Point
from spatialboost.scenes.questions.turn import CannotAskError, Turn


class SameObject(Kind):
    """Whether two objects of different views are one thing.

    The second one is given by a point: its name would give the answer away.
    """

    name = "same_object"
    title = "same object in two views"
    level = "object"
    wordings = (
        "Is the {a} in image 1 the object at {point} in image {k}?",
        "Is the {a} in image 1 the same object as the one at {point} in image {k}?",
        "Does the point {point} in image {k} lie on the {a} of image 1?",
        "Look at the {a} in image 1. Is it the object at {point} in image {k}?",
        "Do image 1 and image {k} show one and the same object, the {a} there and the object at {point} here?",
        "In image {k}, is the object at {point} the {a} of image 1?",
        "Is it the {a} of image 1 that is seen at {point} in image {k}?",
        "The {a} is in image 1. Is the thing at {point} in image {k} that same object?",
    )
    objects = 1
    views = 2

    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Ask about an object with a match and a clearly different object in the other view; "yes" is right half."""
        wanted = bool(rng.random() < 0.5)
        for k in other_views(context, rng):
            firsts = objects_in(context, 0)
            for number in rng.permutation(len(firsts)).tolist():
                found = _pair_of(firsts[number], objects_in(context, k), wanted, rng)
                if found is not None:
                    return self._turn(firsts[number], *found, wanted, rng)
        raise CannotAskError("no object of image 1 has a match and a clearly different object in another image")

    def _turn(self, a: Seen, b: Seen, point: Point, verdict: bool, rng: np.random.Generator) -> Turn:
        name = a.plain_name or ""
        shown = name if verdict else b.description
        facts: dict[str, Any] = {"images": [0, b.view], "objects": [a.number, b.number], "names": [name, shown]}
        facts |= {"at": [point[0] / 100, point[1] / 100], "known_by": "source" if a.knows(b) else "overlap"}
        facts["verdict"] = verdict
        where, k = format_point(point), str(b.view + 1)
        question, facts["template"] = a.context.word(self.wordings, rng, a=name, point=where, k=k)
        answer = f"The object at {where} in image {k} is the {shown}. Answer: {'Yes' if verdict else 'No'}."
        return Turn(question, answer, facts)


def _pair_of(a: Seen, others: list[Seen], wanted: bool, rng: np.random.Generator) -> tuple[Seen, Point] | None:
    """The match of an object, or a different object at a similar height of the image, with a point on it.

    Both must exist. The different one is at a similar height so that the point says little: panels hang on walls.
    """
    if a.plain_name is None:
        return None
    same = {b.number: a.same_as(b) for b in others}
    matches = [b for b in others if same[b.number]]
    if len(matches) != 1:
        return None
    different = [b for b in others if same[b.number] is False and b.description != a.plain_name]
    different.sort(key=lambda b: abs(b.height - matches[0].height))
    points = [point_on(b.thing.mask_HW, rng) for b in (matches[0], *different[:1])]
    if len(points) < 2 or points[0] is None or points[1] is None:
        return None
    return (matches[0], points[0]) if wanted else (different[0], points[1])


SAME_OBJECT = SameObject()
