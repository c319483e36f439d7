"""The check of the depth at a point."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from spatialboost.scenes.questions.checks.lengths import LENGTH, check_length
from spatialboost.scenes.questions.checks.points import check_named_points, measure_points
from spatialboost.scenes.questions.checks.protocol import Check, MeasuredView


class DepthCheck(Check):
    """The depth in the answer is the depth at the point in the question."""

    level = 0

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
        yield from check_named_points(question, turn, facts["size"], 1)
        if not re.search(r"\b(?:depth|deep)\b", question) or re.search(r"\b(?:Point \d|closer|nearer)\b", question):
            yield f"the question {question!r} does not ask for a depth"
        stated = re.fullmatch(rf"The depth is ({LENGTH.pattern})\.", answer)
        yield from check_length(stated and stated[1], turn["depths"][0])

    def measure(self, question: str, turn: dict[str, Any], views: Sequence[MeasuredView]) -> Iterator[str]:
        yield from measure_points(question, turn, views[0].cues)
