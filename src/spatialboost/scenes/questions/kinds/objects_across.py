"""Which objects do two views share: is it the same object, and which view shows it?"""

from __future__ import annotations

from itertools import combinations
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
        shown = name if verdict else b.fact.description
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
    different = [b for b in others if same[b.number] is False and b.fact.description != a.plain_name]
    different.sort(key=lambda b: abs(b.fact.centre_xy[1] - matches[0].fact.centre_xy[1]))
    points = [point_on(b.thing.mask_HW, rng) for b in (matches[0], *different[:1])]
    if len(points) < 2 or points[0] is None or points[1] is None:
        return None
    return (matches[0], points[0]) if wanted else (different[0], points[1])


SAME_OBJECT = SameObject()


Answer = tuple[int, ...]  # the views that show an object


class WhichView(Kind):
    """Which of two views shows an object. The question offers two answers, and both are right equally often."""

    name = "which_view"
    title = "the view that shows an object"
    level = "object"
    wordings = (
        "Where is the {a} visible: {x} or {y}?",
        "Is the {a} visible {x} or {y}?",
        "Can the {a} be seen {x} or {y}?",
        "Does the {a} appear {x} or {y}?",
        "Look for the {a}. Is it {x} or {y}?",
        "In which images is the {a}: {x} or {y}?",
        "Where can the {a} be found, {x} or {y}?",
        "The {a} is in at least one image. Is it {x} or {y}?",
    )
    objects = 1
    views = 2

    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Ask about two views, with two answers for each of which there is an object."""
        pairs = list(combinations(range(len(context.views)), 2))
        for number in rng.permutation(len(pairs)).tolist():
            found = _objects_by_answer(context, pairs[number])
            if len(found) > 1:
                break
        else:
            raise CannotAskError("no two images differ in the objects that they clearly show")
        answers = list(found)
        offered = [answers[i] for i in rng.permutation(len(answers))[:2]]
        verdict = offered[rng.integers(2)]
        seen = found[verdict][rng.integers(len(found[verdict]))]
        name = seen.plain_name or seen.fact.description
        facts: dict[str, Any] = {"images": list(pairs[number]), "view_of_object": seen.view, "objects": [seen.number]}
        facts |= {"names": [name], "verdict": list(verdict)}
        facts["known_by"] = "overlap" if seen.thing.identity is None else "source"
        x, y = map(_where, offered)
        question, facts["template"] = context.word(self.wordings, rng, a=name, x=x, y=y)
        return Turn(question, f"The {name} is visible {_where(verdict)}.", facts)


def _where(answer: Answer) -> str:
    if len(answer) == 1:
        return f"only in image {answer[0] + 1}"
    return f"in both image {answer[0] + 1} and image {answer[1] + 1}"


def _objects_by_answer(context: Context, pair: tuple[int, int]) -> dict[Answer, list[Seen]]:
    """The objects that only the first, only the second, or both of two views clearly show; no empty lists."""
    first, second = (objects_in(context, view) for view in pair)
    both = []
    for seen in first:
        known = (
            seen.thing.identity is not None or seen.plain_name is not None
        )  # a place would be right in one view only
        if known and sum(seen.same_as(other) is True for other in second) == 1:
            both.append(seen)
    found = {
        pair[:1]: [seen for seen in first if seen.is_hidden_in(pair[1])],
        pair[1:]: [seen for seen in second if seen.is_hidden_in(pair[0])],
        pair: both,
    }
    return {answer: seen for answer, seen in found.items() if seen}


WHICH_VIEW = WhichView()
