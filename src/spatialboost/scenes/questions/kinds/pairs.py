"""How do two objects of one view relate: left, above, in front, larger? And how far apart are they?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from spatialboost.scenes.questions import wordings
from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.layout import ObjectFact, measure_distance
from spatialboost.scenes.questions.phrases import format_length, format_locations
from spatialboost.scenes.questions.scoring import LENGTH
from spatialboost.scenes.questions.turn import CannotAskError, Turn


@dataclass(frozen=True)
class Relation(Kind):
    """Whether a relation holds between two objects."""

    name: str
    title: str
    # the word that is true if the first object is the left, upper, nearer or larger one, and its opposite
    words: tuple[str, str]
    wordings: tuple[str, ...]
    comparison: str  # template of the sentence that states the true word
    compared: str = "positions"  # the property of the two cubes that is compared

    level = "object"
    objects = 2

    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Ask about a pair of objects with a clear relation. The right answer is "yes" half of the time."""
        view = context.view
        found = next(context.named_pairs(self.name, rng), None)
        if found is None:
            if len(view.objects) > 1 and not context.can_name(self.name):
                raise CannotAskError(
                    f"every description of an object tells what is {'/'.join(self.words)}; add aliases"
                )
            raise CannotAskError(f"no pair of objects is clear enough to ask about {'/'.join(self.words)}")
        (i, j), (a, b) = found
        true_word, false_word = self.words if view.compare(self.name, i, j) == 1 else self.words[::-1]
        verdict = bool(rng.random() < 0.5)
        asked = true_word if verdict else false_word
        facts: dict[str, Any] = {"objects": [i, j], "names": [a, b], "asked": asked, "holds": true_word}
        facts["verdict"] = verdict
        question, facts["template"] = context.word(self.wordings, rng, word=asked, a=a, b=b)
        reason = self.reason((a, view.objects[i]), (b, view.objects[j]), true_word)
        return Turn(question, f"{reason} Answer: {'Yes' if verdict else 'No'}.", facts)

    def reason(self, first: tuple[str, ObjectFact], second: tuple[str, ObjectFact], word: str) -> str:
        """The text with which every answer about two objects begins: their locations and their comparison."""
        (a, fact_a), (b, fact_b) = first, second
        compared = self.comparison.format(a=a, b=b, word=word)
        return f"{format_locations(a, fact_a.cube, b, fact_b.cube)} Comparing their 3D {self.compared}, {compared}."


LEFT_RIGHT = Relation(
    "left_right",
    "left or right",
    ("left", "right"),
    wordings.LEFT_RIGHT,
    "the {a} is on the {word} side of the {b}",
)
ABOVE_BELOW = Relation(
    "above_below",
    "above or below",
    ("above", "below"),
    wordings.ABOVE_BELOW,
    "the {a} is {word} the {b}",
)
FRONT_BEHIND = Relation(
    "front_behind",
    "in front or behind",
    ("in front of", "behind"),
    wordings.FRONT_BEHIND,
    "the {a} is {word} the {b}",
)
LARGER_SMALLER = Relation(
    "larger_smaller",
    "larger or smaller",
    ("larger", "smaller"),
    wordings.LARGER_SMALLER,
    "the {a} is {word} than the {b}",
    compared="sizes",
)


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
