"""The check of the distance between two objects."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from spatialboost.scenes.questions.checks.boxes import (
    CLAIMS,
    WORD,
    centre_of,
    check_names,
    check_reason,
    measure_claim,
    measure_heights,
    split_question,
)
from spatialboost.scenes.questions.checks.lengths import LENGTH, ROUNDING, check_length
from spatialboost.scenes.questions.checks.protocol import Check, MeasuredView


class DistanceCheck(Check):
    """The distance is the one between the centres of both extents, and the relation before it is true."""

    level = 2

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
        """Compute the distance again."""
        a, b = (facts["objects"][i] for i in turn["objects"])
        names = yield from check_names(turn, turn["objects"], facts)
        around = " | ".join(split_question(question, names) or ())
        if not re.search(r"\b(?:how far|distance)\b", around, re.IGNORECASE) or WORD.search(around):
            yield f"the question {question!r} does not ask how far {names[0]!r} is from {names[1]!r}"
        holds = yield from check_reason(answer, turn["relation"], names, a, b, facts)
        if holds is not None and CLAIMS[turn["holds"]] != (turn["relation"], holds):
            yield f"the recorded relation {turn['holds']!r} is not true"
        metres = math.dist(centre_of(a["extent_m"]), centre_of(b["extent_m"]))
        stated = re.search(rf" Answer: ({LENGTH.pattern})\.$", answer)
        yield from check_length(stated and stated[1], metres)
        if abs(metres - turn["distance"]) > 2 * ROUNDING:
            yield f"the recorded distance is {turn['distance']} m, recomputed {metres:.6f} m"

    def measure(self, question: str, turn: dict[str, Any], views: Sequence[MeasuredView]) -> Iterator[str]:
        """Measure both objects again."""
        yield from measure_claim(turn["holds"], turn["objects"], views[0].extents)
        yield from measure_heights(turn["holds"], turn["objects"], views[0].heights)
