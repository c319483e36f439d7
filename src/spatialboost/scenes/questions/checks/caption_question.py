"""The check of questions about a caption."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from spatialboost.scenes.questions.checks.boxes import is_extreme
from spatialboost.scenes.questions.checks.protocol import Check


class CaptionQuestionCheck(Check):
    """The count is the number of objects; the object in the answer is the closest or the farthest of them."""

    level = 3
    follows = "caption"

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
        """Count the objects, or compare the depths of their centres."""
        if re.match(r"How many", question):
            count = len(turn["objects"])
            if answer != f"{count} object{'' if count == 1 else 's'}." or turn["verdict"] != count:
                yield f"the answer is {answer!r}, but there are {count} objects"
            return
        far = re.search(r"\bfarthest\b", question) is not None
        if not far and not re.search(r"\b(closest|nearest)\b", question):
            yield f"the question {question!r} is not a question about a caption"
            return
        winner = facts["objects"][turn["verdict"]]["description"]
        if answer != f"The {winner}.":
            yield f"the answer is {answer!r}, the ground truth is {winner!r}"
        if not is_extreme(turn["verdict"], turn["objects"], facts, closest=not far):
            yield f"{winner!r} is not the {'farthest' if far else 'closest'} of the objects"
