"""The checks of captions and of the questions about them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from spatialboost.scenes.questions.checks.boxes import check_names, check_relation, is_extreme, split_question
from spatialboost.scenes.questions.checks.generated import check_text, named_in
from spatialboost.scenes.questions.checks.protocol import Check

# The word in a question about a pair: the relation, and whether its first word is true of the right object
_WORDS = {
    "closer": ("front_behind", True),
    "farther": ("front_behind", False),
    "higher": ("above_below", True),
    "lower": ("above_below", False),
    "larger": ("larger_smaller", True),
    "smaller": ("larger_smaller", False),
}


class CaptionCheck(Check):
    """The caption names the objects in the order of their columns, and the closest object if one is recorded."""

    level = 3

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
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


class CaptionQuestionCheck(Check):
    """The object in the answer is the one that the question asks for: of a pair, or of all objects of the caption.

    In data sets before there were pairs, the question is how many objects there are, or which of all is the closest.
    """

    level = 3
    follows = "caption"

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
        if "pair" in turn:
            yield from _check_pair(question, answer, turn, facts)
            return
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


def _check_pair(question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
    pair = turn["pair"]
    names = yield from check_names(turn, pair, facts)
    around = " | ".join(split_question(question, names) or ())
    words = re.findall(rf"\b({'|'.join(_WORDS)})\b", around)
    if words != [turn["asked"]] or not re.search(r"\bor\b", around) or re.search(r"\b(?:not|less)\b", around):
        yield f"the question {question!r} does not ask which of {names} is {turn['asked']}"
        return
    if not set(pair) <= set(turn["objects"]):
        yield f"the caption does not name both of {names}"
    relation, wanted = _WORDS[words[0]]
    a, b = (facts["objects"][i] for i in pair)
    holds = yield from check_relation(relation, a, b, facts)
    right = pair[0] if holds == wanted else pair[1]
    if answer != f"The {names[pair.index(right)]}." or turn["verdict"] != right:
        yield f"the answer is {answer!r}, but the {names[pair.index(right)]} is {turn['asked']}"
