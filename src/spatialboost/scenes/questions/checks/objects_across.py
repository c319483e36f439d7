"""The checks of which objects two views share: is it the same object, and which view shows it?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from spatialboost.scenes.questions.checks.across import (
    check_images,
    check_named_objects,
    measure_same,
    seen_by,
    thing_of,
)
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


_WHERE = re.compile(r"only in image (\d+)|in both image (\d+) and image (\d+)")


class WhichViewCheck(Check):
    """The views in the answer show the object, and the other one does not."""

    level = 1

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
        yield from check_images(question, turn["images"], facts["images"])
        yield from check_named_objects(question, turn, facts, [turn["view_of_object"]])
        shows = turn["verdict"]
        offered = [[int(number) - 1 for number in found if number] for found in _WHERE.findall(question)]
        if len(offered) != 2 or shows not in offered or offered[0] == offered[1]:
            yield f"the question {question!r} does not offer {shows} and one other answer"
        if any(image not in turn["images"] for way in offered for image in way) or turn["view_of_object"] not in shows:
            yield f"the images of the turn are {turn['images']}, but the verdict is {shows} of {offered}"
            return
        where = [found[0] for found in re.finditer(r"only in image \d+|in both image \d+ and image \d+", answer)]
        stated = [[int(number) - 1 for number in re.findall(r"\d+", text)] for text in where]
        if stated != [shows] or answer != f"The {turn['names'][0]} is visible {where[0]}.":
            yield f"the answer is {answer!r}, but the verdict is {shows}"
        name = facts["views"][turn["view_of_object"]]["objects"][turn["objects"][0]]["description"]
        showing = [
            image
            for image in turn["images"]
            if name in [thing["description"] for thing in facts["views"][image]["objects"]]
        ]
        if turn["known_by"] == "source" and showing != shows:
            yield f"{name!r} is among the objects of the images {showing}, but the verdict is {shows}"

    def measure(self, question: str, turn: dict[str, Any], views: Sequence[MeasuredView]) -> Iterator[str]:
        here, name = turn["view_of_object"], turn["names"][0]
        there = next(image for image in turn["images"] if image != here)
        thing, cues = thing_of(views, here, name), views[there].cues
        if thing is None:
            yield f"image {here + 1} has no {name!r}"
            return
        matches = [other for other in cues.objects if measure_same(thing, views[here].cues, other, cues)]
        if (len(turn["verdict"]) > 1) != (len(matches) > 0):
            yield f"{len(matches)} objects of image {there + 1} are {name!r}, but the verdict is {turn['verdict']}"
        visible = seen_by(thing, views[here].cues, cues).sum() / thing.mask_HW.sum()
        if len(turn["verdict"]) == 1 and (visible > 0.03 or thing_of(views, there, name) is not None):
            yield f"{name!r} is visible in image {there + 1}"
