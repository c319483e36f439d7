"""The check of common, adversarial and multi-choice questions, from a language model or from a template."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from spatialboost.scenes.questions.checks.claims import is_called
from spatialboost.scenes.questions.checks.generated import STYLES, check_pair
from spatialboost.scenes.questions.checks.protocol import Check, MeasuredView

_THERE = re.compile(r"Is there a (.+?)(?: visible)?(?: in (?:the image|this picture))?\?")

_OPPOSITES = (
    {"to the left of", "to the right of"},
    {"above", "below"},
    {"in front of", "behind"},
    {"larger than", "smaller than"},
    {"closer to its camera than", "farther from its camera than"},
)
_WORDS = "|".join(sorted(word for pair in _OPPOSITES for word in pair))


class VqaCheck(Check):
    """Everything that question and answer state about geometry is true, and the recorded verdict is the answer's."""

    level = 3

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
        if turn["style"] not in STYLES:
            yield f"its style is {turn['style']!r}, expected one of {', '.join(STYLES)}"
        for problem in check_pair(question, answer, turn["style"], facts.get("views", [facts])):
            yield f"{question!r} {answer!r}: {problem}"
        if turn.get("generated"):
            return
        stated = re.search(r"Answer: (Yes|No|[A-D])\.$", answer)
        if turn["verdict"] != (stated[1] if stated else answer):
            yield f"the recorded verdict is {turn['verdict']!r}, but the answer is {answer!r}"
        if (stated is None) != (turn["style"] == "common"):
            yield f"the answer {answer!r} does not end as that of a question of the style {turn['style']!r}"
        there = _THERE.fullmatch(question)
        if turn["form"] == "there" and there:
            found = any(is_called(thing["description"], there[1]) for thing in facts["objects"])
            if found != (turn["verdict"] == "Yes"):
                yield f"the answer is {answer!r}, but {'there is one' if found else 'no object is called so'}"
        if (turn["form"] == "there") != (there is not None):
            yield f"the question {question!r} does not ask whether a thing is there"
        yield from _check_names(question, turn, facts)
        if turn["form"] == "premise":
            yield from _check_correction(question, answer)

    def measure(self, question: str, turn: dict[str, Any], views: Sequence[MeasuredView]) -> Iterator[str]:
        """Look for an absent thing among all objects of the view, also those that are too small for a question."""
        there = _THERE.fullmatch(question)
        if there and not turn.get("generated") and turn["verdict"] == "No":
            for thing in views[0].cues.objects:
                if is_called(thing.description, there[1]):
                    yield f"the view has a {thing.description}"


def _check_correction(question: str, answer: str) -> Iterator[str]:
    """Check that the answer states the relation that is asked about, of the same objects."""
    stated = re.fullmatch(rf"(?:Yes|No), the (.+) is ({_WORDS}) the (.+)\. Answer: (?:Yes|No)\.", answer)
    names = [re.escape(stated[1]), re.escape(stated[3])] if stated else ["", ""]
    asked = re.search(rf"[Tt]he {names[0]} is ({_WORDS}) the {names[1]}[.,?]", question)
    if not stated or not asked:
        yield f"the answer {answer!r} is not about the objects of {question!r}"
    elif not any({stated[2], asked[1]} <= pair for pair in _OPPOSITES):
        yield f"the answer says {stated[2]!r}, but the question is about {asked[1]!r}"


def _check_names(question: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
    """Check that the recorded objects are those that the question names."""
    if turn["form"] == "there":
        return
    for place in turn["objects"]:
        view, number = place if isinstance(place, list) else (None, place)
        things = (facts if view is None else facts["views"][view])["objects"]
        if number < 0:
            raise IndexError(number)
        names = [things[number]["description"], *things[number].get("aliases", ())]
        where = "" if view is None else f" in image {view + 1}"
        if not any(f"{name}{where}" in question for name in names):
            yield f"the question does not name the recorded object {names[0]!r}{where}"
