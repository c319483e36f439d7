"""Is one object left of, above, in front of, or larger than another?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.phrases import format_locations
from spatialboost.scenes.questions.turn import CannotAskError, Turn, choose_wording
from spatialboost.scenes.questions.view import AskedView


@dataclass(frozen=True)
class Relation(Kind):
    """Whether a relation holds between two objects.

    Attributes:
        words: the word that is true if the first object is the left, upper, nearer or larger one, and its opposite.
        comparison: template of the sentence that states the true word.
        compared: the property of the two cubes that is compared.
    """

    name: str
    title: str
    words: tuple[str, str]
    wordings: tuple[str, ...]
    comparison: str
    compared: str = "positions"

    level = "object"
    objects = 2

    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Ask about a pair of objects with a clear relation. The right answer is "yes" half of the time."""
        view = context.view
        pair = next((pair for pair in view.pairs(rng) if view.compare(self.name, *pair)), None)
        if pair is None:
            raise CannotAskError(f"no pair of objects is clear enough to ask about {'/'.join(self.words)}")
        i, j = pair
        true_word, false_word = self.words if view.compare(self.name, i, j) == 1 else self.words[::-1]
        verdict = bool(rng.random() < 0.5)
        asked = true_word if verdict else false_word
        facts = {"objects": [i, j], "asked": asked, "holds": true_word, "verdict": verdict}
        names = {"a": view.objects[i].description, "b": view.objects[j].description}
        question, facts["template"] = choose_wording(self.wordings, rng, word=asked, **names)
        return Turn(question, f"{self.reason(view, i, j, true_word)} Answer: {'Yes' if verdict else 'No'}.", facts)

    def reason(self, view: AskedView, i: int, j: int, word: str) -> str:
        """The text with which every answer about two objects begins: their locations and their comparison."""
        a, b = view.objects[i], view.objects[j]
        compared = self.comparison.format(a=a.description, b=b.description, word=word)
        located = format_locations(a.description, a.cube, b.description, b.cube)
        return f"{located} Comparing their 3D {self.compared}, {compared}."


LEFT_RIGHT = Relation(
    "left_right",
    "left or right",
    ("left", "right"),
    ("Is the {a} on the {word} side of the {b}?", "Is the {a} to the {word} of the {b}?"),
    "the {a} is on the {word} side of the {b}",
)
ABOVE_BELOW = Relation(
    "above_below",
    "above or below",
    ("above", "below"),
    ("Is the {a} located {word} the {b}?", "Is the {a} {word} the {b}?"),
    "the {a} is {word} the {b}",
)
FRONT_BEHIND = Relation(
    "front_behind",
    "in front or behind",
    ("in front of", "behind"),
    ("Is the {a} located {word} the {b}?", "Is the {a} {word} the {b}?"),
    "the {a} is {word} the {b}",
)
LARGER_SMALLER = Relation(
    "larger_smaller",
    "larger or smaller",
    ("larger", "smaller"),
    ("Is the {a} {word} than the {b}?", "Does the {a} look {word} than the {b}?"),
    "the {a} is {word} than the {b}",
    compared="sizes",
)
