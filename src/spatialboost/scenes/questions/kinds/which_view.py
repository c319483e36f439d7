"""Which of two views shows an object?"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from spatialboost.scenes.questions.across import objects_in
from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.turn import CannotAskError, Turn, choose_wording


class WhichView(Kind):
    """Which of two views shows an object that the other one clearly does not show."""

    name = "which_view"
    title = "the view that shows an object"
    level = "object"
    wordings = (
        "Which image shows the {a}, image {i} or image {j}?",
        "Is the {a} visible in image {i} or in image {j}?",
        "In which image can the {a} be seen: image {i} or image {j}?",
        "Only one of image {i} and image {j} shows the {a}. Which one?",
        "Where is the {a} visible, in image {i} or in image {j}?",
        "Of image {i} and image {j}, which one contains the {a}?",
        "The {a} is in one of the two images {i} and {j} only. In which one?",
        "Does the {a} appear in image {i} or in image {j}?",
    )
    objects = 1
    views = 2

    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Ask about two views each of which shows an object that the other does not; both are right equally often."""
        pairs = list(combinations(range(len(context.views)), 2))
        for number in rng.permutation(len(pairs)).tolist():
            pair = pairs[number]
            alone = [
                [seen for seen in objects_in(context, here) if seen.is_hidden_in(there)]
                for here, there in (pair, pair[::-1])
            ]
            if all(alone):
                break
        else:
            raise CannotAskError("no two images each show an object that the other clearly does not show")
        side = int(rng.integers(2))
        seen = alone[side][rng.integers(len(alone[side]))]
        name = seen.plain_name or seen.description
        facts: dict[str, Any] = {"images": list(pair), "objects": [seen.number], "names": [name], "verdict": seen.view}
        i, j = pair if rng.random() < 0.5 else pair[::-1]
        question, facts["template"] = choose_wording(self.wordings, rng, a=name, i=str(i + 1), j=str(j + 1))
        return Turn(question, f"Image {seen.view + 1} shows the {name}.", facts)


WHICH_VIEW = WhichView()
