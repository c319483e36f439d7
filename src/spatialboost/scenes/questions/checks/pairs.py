"""The checks of the four relations between two objects, and of their distance."""

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

_NEGATION = re.compile(r"\b(?:not|no|never|neither|without)\b|n't\b", re.IGNORECASE)
# Words of a name that contain the answer.
_TELLING = {
    "left_right": r"left|right",
    "above_below": r"top|bottom|above|below|upper|lower",
    "front_behind": r"front|behind|nearest|farthest|closest",
    "larger_smaller": r"small|large|big|tiny|huge",
}


class RelationCheck(Check):
    """Both cubes, the comparison and the verdict are right. The word in the question determines the relation.

    The question may have any wording. What it asks is read from its words: it names both objects, it contains exactly
    one word for a relation outside of the names, and it has no negation.
    """

    level = 1

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
        a, b = (facts["objects"][i] for i in turn["objects"])
        names = yield from check_names(turn, turn["objects"], facts)
        parts = split_question(question, names)
        words = WORD.findall(" | ".join(parts)) if parts else []
        if words != [turn["asked"]] or not question.endswith("?") or _NEGATION.search(" | ".join(parts or ())):
            expected = f"{names[0]!r} is {turn['asked']} {names[1]!r}"
            yield f"the question {question!r} does not ask whether {expected}"
            return
        if CLAIMS[words[0]][0] != turn["kind"]:
            yield f"the question is about {CLAIMS[words[0]][0]}"
        if "names" in turn and any(re.search(rf"\b(?:{_TELLING[turn['kind']]})\b", name) for name in names):
            yield f"the names {names} contain the answer"
        holds = yield from check_reason(answer, turn["kind"], names, a, b, facts)
        if holds is None:
            return
        stated = re.search(r" Answer: (Yes|No)\.$", answer)
        right = CLAIMS[words[0]][1] == holds
        if not stated or (stated[1] == "Yes") != right:
            yield f"the answer ends in {answer[-12:]!r}, but {'yes' if right else 'no'} is right"
        if turn["verdict"] != right or (CLAIMS[turn["holds"]] != (turn["kind"], holds)):
            yield f"the recorded verdict is {turn['verdict']} ({turn['holds']}), recomputed {right}"

    def measure(self, question: str, turn: dict[str, Any], views: Sequence[MeasuredView]) -> Iterator[str]:
        yield from measure_claim(turn["holds"], turn["objects"], views[0].extents)
        yield from measure_heights(turn["holds"], turn["objects"], views[0].heights)


class DistanceCheck(Check):
    """The distance is the one between the centres of both extents, and the relation before it is true."""

    level = 2

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
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
        yield from measure_claim(turn["holds"], turn["objects"], views[0].extents)
        yield from measure_heights(turn["holds"], turn["objects"], views[0].heights)
