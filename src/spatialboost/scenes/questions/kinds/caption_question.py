"""A question about two objects of a caption that the caption does not answer: which one is closer, higher or larger?"""

from __future__ import annotations

from itertools import chain
from typing import Any, ClassVar

import numpy as np

from spatialboost.scenes.questions import wordings
from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.turn import CannotAskError, Turn

# relation -> what is asked if its first word is true of the answer, and the opposite
_ASKED = {
    "front_behind": ("closer", "farther"),
    "above_below": ("higher", "lower"),
    "larger_smaller": ("larger", "smaller"),
}


class CaptionQuestion(Kind):
    """Which of two objects that the caption names is closer, farther, higher, lower, larger or smaller."""

    name = "caption_question"
    title = "question on the caption"
    level = "caption"
    wordings_of: ClassVar[dict[str, tuple[str, ...]]] = wordings.CAPTION_QUESTION
    wordings = tuple(chain.from_iterable(wordings_of.values()))
    objects = 2
    follows = "caption"

    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Ask about a relation that the caption does not state. Each of the two objects is right half of the time."""
        named, closest = context.followed["objects"], context.followed["closest"]
        stated = [(turn["kind"], set(turn["objects"])) for turn in context.earlier if "holds" in turn]
        said = context.followed.get("told", [])  # by the caption of a language model
        found = []
        for relation in (list(_ASKED)[i] for i in rng.permutation(len(_ASKED))):
            told = {closest} if relation == "front_behind" else set()
            for pair, names in context.named_pairs(relation, rng):
                if told.isdisjoint(pair) and set(pair) <= set(named) and sorted(pair) not in said:
                    found.append(((relation, set(pair)) in stated, relation, pair, names))
                    break
        if found:  # the first that no earlier turn answered, if there is one
            _, relation, pair, names = min(found, key=lambda entry: entry[0])
            return self._ask_about(context, relation, pair, names, rng)
        raise CannotAskError("no two objects of the caption have a clear relation that the caption does not state")

    def _ask_about(
        self, context: Context, relation: str, pair: tuple[int, int], names: tuple[str, str], rng: np.random.Generator
    ) -> Turn:
        opposite = int(rng.random() < 0.5)
        asked = _ASKED[relation][opposite]
        right = (context.view.compare(relation, *pair) == 1) == (opposite == 0)
        facts: dict[str, Any] = {"asked": asked, "objects": context.followed["objects"], "pair": list(pair)}
        facts |= {"names": list(names), "verdict": pair[0 if right else 1]}
        question, facts["template"] = context.word(self.wordings_of[asked], rng, a=names[0], b=names[1])
        return Turn(question, f"The {names[0 if right else 1]}.", facts)


CAPTION_QUESTION = CaptionQuestion()
