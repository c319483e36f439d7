"""What is in this scene? And a question about two objects of the caption that the caption does not answer."""

from __future__ import annotations

from itertools import chain, pairwise
from typing import Any, ClassVar

import numpy as np

from spatialboost.scenes.questions import wordings
from spatialboost.scenes.questions.checks.generated import check_text, named_in, pairs_told
from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.phrases import format_list
from spatialboost.scenes.questions.turn import CannotAskError, Turn

_MAX_NAMED = 6
# relation -> what is asked if its first word is true of the answer, and the opposite
_ASKED = {
    "front_behind": ("closer", "farther"),
    "above_below": ("higher", "lower"),
    "larger_smaller": ("larger", "smaller"),
}


class Caption(Kind):
    """The caption that an extractor wrote (``facts["caption"]``), if it is true; otherwise one from a template.

    The template names the objects. Half of the time it also names the closest object if one is clearly closest.
    """

    name = "caption"
    title = "caption"
    level = "caption"
    wordings = wordings.CAPTION
    objects = 1
    texts = "caption"

    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Name the objects with the most pixels, sorted by their column in the image."""
        view = context.view
        text = view.cues.facts.get("caption")
        if text is not None and not list(check_text(text, [view.facts])):
            question, template = context.word(self.wordings, rng)
            facts: dict[str, Any] = {"objects": named_in(text, view.facts), "told": pairs_told(text, view.facts)}
            return Turn(question, text, {**facts, "closest": None, "generated": True, "template": template})
        if not view.objects:
            raise CannotAskError("0 usable objects, but the question needs 1")
        largest = sorted(range(len(view.objects)), key=lambda i: -view.objects[i].pixels)[:_MAX_NAMED]
        named = sorted(largest, key=lambda i: view.objects[i].centre_xy)
        # In half of the captions only, so that the question about the caption can ask for it
        tell = len(named) > 2 and rng.random() < 0.5
        closest = view.extreme(named, closest=True) if tell else None
        ordered = len(named) > 1 and all(view.compare("left_right", i, j) == 1 for i, j in pairwise(named))
        start = "From left to right, the" if ordered else "The"
        answer = f"{start} scene shows {format_list([view.objects[i].description for i in named])}."
        if closest is not None:
            answer += f" The {view.objects[closest].description} is the closest to the viewer."
        question, template = context.word(self.wordings, rng)
        return Turn(question, answer, {"objects": named, "ordered": ordered, "closest": closest, "template": template})


CAPTION = Caption()


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
