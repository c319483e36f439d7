"""Which of two views shows an object: only the one, only the other, or both?"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from spatialboost.scenes.questions.across import Seen, objects_in
from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.turn import CannotAskError, Turn

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
        name = seen.plain_name or seen.description
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
