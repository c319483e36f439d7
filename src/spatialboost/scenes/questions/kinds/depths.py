"""What is the depth at each of these points?"""

from __future__ import annotations

import re

import numpy as np

from spatialboost.scenes.questions import wordings
from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.phrases import format_point
from spatialboost.scenes.questions.scoring import LENGTHS
from spatialboost.scenes.questions.turn import CannotAskError, Turn

MOST = 12  # points in one question
LEAST = 2
_STATED = re.compile(r"\((\d\.\d\d), (\d\.\d\d)\): (\d+\.\d)")


class Depths(Kind):
    """The depth at several points in one answer, in metres with one decimal.

    It saves tokens: the words around each depth are said once. An image shows about as much of a depth as the first
    decimal.
    """

    name = "depths"
    title = "depths at several points"
    level = "pixel"
    wordings = wordings.DEPTHS
    scoring = LENGTHS

    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Ask about up to twelve points that are not on an edge, in random order; each is asked once."""
        asked = {
            (round(100 * x), round(100 * y))
            for turn in context.earlier
            if turn["kind"] == self.name
            for x, y in turn["points"]
        }
        points = context.view.picker.pick_several(rng, MOST, without=asked)
        if len(points) < LEAST:
            raise CannotAskError(f"{len(points)} points have a steady depth and were not asked, expected {LEAST}")
        facts = context.view.point_facts(points)
        said = [format_point(point) for point in points]
        question, facts["template"] = context.word(self.wordings, rng, points=", ".join(said))
        depths = [f"{point}: {depth:.1f}" for point, depth in zip(said, facts["depths"], strict=True)]
        return Turn(question, f"{'; '.join(depths)}.", facts)

    def exchanged(self, answer: str, other: str) -> str:
        """The same points in the same order, each with the depth of the other answer's nearest point.

        Example:
            >>> DEPTHS.exchanged("(0.12, 0.38): 2.3; (0.62, 0.12): 3.1.", "(0.62, 0.12): 1.0; (0.38, 0.38): 4.5.")
            '(0.12, 0.38): 4.5; (0.62, 0.12): 1.0.'
        """
        theirs = [(float(x), float(y), depth) for x, y, depth in _STATED.findall(other)]
        if not theirs:
            return other

        def nearest(stated: re.Match[str]) -> str:
            x, y = float(stated[1]), float(stated[2])
            depth = min(theirs, key=lambda their: (their[0] - x) ** 2 + (their[1] - y) ** 2)[2]
            return f"({stated[1]}, {stated[2]}): {depth}"

        return _STATED.sub(nearest, answer)


DEPTHS = Depths()
