"""The check of which view shows an object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from spatialboost.scenes.questions.checks.across import check_images, check_named_objects, seen_by, thing_of
from spatialboost.scenes.questions.checks.protocol import Check, MeasuredView


class WhichViewCheck(Check):
    """The view in the answer shows the object, and the other one does not."""

    level = 1

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
        """Look for the object's name in both views."""
        yield from check_images(question, turn["images"], facts["images"])
        shows = turn["verdict"]
        if shows not in turn["images"]:
            yield f"image {shows + 1} is none of the two images"
            return
        yield from check_named_objects(question, turn, facts, [shows])
        hides = next(image for image in turn["images"] if image != shows)
        thing = facts["views"][shows]["objects"][turn["objects"][0]]
        if any(thing["description"] == other["description"] for other in facts["views"][hides]["objects"]):
            yield f"image {hides + 1} shows {thing['description']!r}, too"
        if answer != f"Image {shows + 1} shows the {turn['names'][0]}.":
            yield f"the answer is {answer!r}, but image {shows + 1} shows {turn['names'][0]!r}"

    def measure(self, question: str, turn: dict[str, Any], views: Sequence[MeasuredView]) -> Iterator[str]:
        """Look for the object's points in both views."""
        shows, name = turn["verdict"], turn["names"][0]
        hides = next(image for image in turn["images"] if image != shows)
        thing, other = thing_of(views, shows, name), thing_of(views, hides, name)
        if thing is None or other is not None:
            yield f"{name!r} is not in image {shows + 1} alone"
            return
        cues = views[hides].cues
        if thing.identity is not None and thing.identity in [each.identity for each in cues.objects]:
            yield f"image {hides + 1} shows {name!r}, too"
        if seen_by(thing, views[shows].cues, cues).sum() > 0.03 * thing.mask_HW.sum():
            yield f"points of {name!r} are visible in image {hides + 1}"
