"""The check of whether two objects of different views are one thing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from spatialboost.scenes.questions.checks.across import check_images, check_named_objects, measure_same, thing_of
from spatialboost.scenes.questions.checks.points import POINT
from spatialboost.scenes.questions.checks.protocol import Check, MeasuredView


class SameObjectCheck(Check):
    """The point of the question lies on the object of the turn, and the verdict is true."""

    level = 1

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
        yield from check_images(question, turn["images"], facts["images"])
        if turn["images"][0] != 0:
            yield "the first object is not in image 1"
        first, shown = turn["names"]
        one = {**turn, "names": [first], "objects": turn["objects"][:1]}
        yield from check_named_objects(question, one, facts, [0])
        x_y = POINT.findall(question)
        if len(x_y) != 1 or [float(part) for part in x_y[0]] != turn["at"]:
            yield f"the question {question!r} does not name the point {turn['at']}"
            return
        where = f"({x_y[0][0]}, {x_y[0][1]})"
        verdict = "Yes" if turn["verdict"] else "No"
        if answer != f"The object at {where} in image {turn['images'][1] + 1} is the {shown}. Answer: {verdict}.":
            yield f"the answer {answer!r} does not say that {shown!r} is at {where}, and {verdict}"
        a = facts["views"][0]["objects"][turn["objects"][0]]["description"]
        b = facts["views"][turn["images"][1]]["objects"][turn["objects"][1]]["description"]
        if turn["known_by"] == "source" and (a == b) != turn["verdict"]:
            yield f"the objects are {a!r} and {b!r}, but the verdict is {turn['verdict']}"
        if turn["verdict"] != (first == shown) or (not turn["verdict"] and shown != b):
            yield f"the answer calls the object {shown!r}, but the verdict is {turn['verdict']}"

    def measure(self, question: str, turn: dict[str, Any], views: Sequence[MeasuredView]) -> Iterator[str]:
        image = turn["images"][1]
        there = views[image].cues
        height, width = there.size
        hundredths = [int(re.sub(r"\D", "", part)) for part in POINT.findall(question)[0]]
        pixel = hundredths[1] * height // 100, hundredths[0] * width // 100
        hit = [thing for thing in there.objects if thing.mask_HW[pixel]]
        first = thing_of(views, 0, turn["names"][0])
        if len(hit) != 1 or first is None:
            yield f"{len(hit)} objects are at {turn['at']} in image {image + 1}, expected one"
            return
        if measure_same(first, views[0].cues, hit[0], there) is not turn["verdict"]:
            yield f"{turn['names'][0]!r} and {hit[0].description!r} are not {turn['verdict']} when measured again"
