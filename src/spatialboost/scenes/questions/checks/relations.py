"""The check of the four relations between two objects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from spatialboost.scenes.questions.checks.boxes import CLAIMS, WORD, check_reason, measure_claim, measure_heights
from spatialboost.scenes.questions.checks.protocol import Check, MeasuredView


class RelationCheck(Check):
    """Both cubes, the comparison and the verdict are right. The word in the question determines the relation."""

    level = 1

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
        """Compare the extents of both objects, and the cubes in the answer."""
        a, b = (facts["objects"][i] for i in turn["objects"])
        asked = re.fullmatch(
            rf"(?:Is|Does) the {re.escape(a['description'])} (.+) the {re.escape(b['description'])}\?", question
        )
        word = asked and WORD.search(asked[1])
        if not asked or not word or word[1] != turn["asked"]:
            expected = f"{a['description']!r} is {turn['asked']} {b['description']!r}"
            yield f"the question {question!r} does not ask whether {expected}"
            return
        if CLAIMS[word[1]][0] != turn["kind"]:
            yield f"the question is about {CLAIMS[word[1]][0]}"
        holds = yield from check_reason(answer, turn["kind"], a, b, facts)
        if holds is None:
            return
        stated = re.search(r" Answer: (Yes|No)\.$", answer)
        right = CLAIMS[word[1]][1] == holds
        if not stated or (stated[1] == "Yes") != right:
            yield f"the answer ends in {answer[-12:]!r}, but {'yes' if right else 'no'} is right"
        if turn["verdict"] != right or (CLAIMS[turn["holds"]] != (turn["kind"], holds)):
            yield f"the recorded verdict is {turn['verdict']} ({turn['holds']}), recomputed {right}"

    def measure(self, question: str, turn: dict[str, Any], views: Sequence[MeasuredView]) -> Iterator[str]:
        """Measure both objects again."""
        yield from measure_claim(turn["holds"], turn["objects"], views[0].extents)
        yield from measure_heights(turn["holds"], turn["objects"], views[0].heights)
