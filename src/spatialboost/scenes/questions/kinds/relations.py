"""Is one object left of, above, in front of, or larger than another?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from spatialboost.scenes.questions import wordings
from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.layout import ObjectFact
from spatialboost.scenes.questions.phrases import format_locations
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
        """The text with which every answer about two objects begins: their locations and their comparison.

        Args:
            first: name and measurements of the first object.
            second: of the second object.
            word: the word that is true.
        """
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
