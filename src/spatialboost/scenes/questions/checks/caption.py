"""The check of captions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from spatialboost.scenes.questions.checks.boxes import is_extreme
from spatialboost.scenes.questions.checks.generated import check_text, named_in
from spatialboost.scenes.questions.checks.protocol import Check


class CaptionCheck(Check):
    """The caption names the objects in the order of their columns, and the closest object if one is recorded."""

    level = 3

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
        """Compare the text with the objects."""
        if not re.search(r"\bscene\b", question):
            yield f"the question {question!r} does not ask for a caption"
        if turn.get("generated"):
            yield from check_text(answer, [facts])
            if named_in(answer, facts) != turn["objects"]:
                yield f"the caption names the objects {named_in(answer, facts)}, but meta has {turn['objects']}"
            return
        things = [facts["objects"][i] for i in turn["objects"]]
        middles = [thing["centre_xy"][0] for thing in things]
        if middles != sorted(middles):
            yield "the objects are not named from left to right"
        named = [rf"(?:an?|the) {re.escape(thing['description'])}" for thing in things]
        listed = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
        start = "From left to right, the" if turn["ordered"] else "The"
        stated = re.fullmatch(
            rf"{start} scene shows {listed}\.(?: The (?P<closest>.+) is the closest to the viewer\.)?", answer
        )
        if not stated:
            names = [thing["description"] for thing in things]
            yield f"the caption {answer!r} does not name {names} in this order"
            return
        closest = None if turn["closest"] is None else facts["objects"][turn["closest"]]["description"]
        if stated["closest"] != closest:
            yield f"the caption calls {stated['closest']!r} the closest, the ground truth is {closest!r}"
        if turn["closest"] is not None and not is_extreme(turn["closest"], turn["objects"], facts, closest=True):
            yield f"{closest!r} is not the closest of the objects"
