"""What a text claims about the objects of a view, and whether the layout of the view shows that it is true."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from spatialboost.scenes.questions.checks.boxes import centre_of

Facts = Mapping[str, Any]  # the facts of one view, as in meta

# Two objects: the axis of their centres, and whether the first one has the smaller value
_AXES = {
    "left": (0, True),
    "right": (0, False),
    "above": (1, True),
    "below": (1, False),
    "front": (2, True),
    "behind": (2, False),
}
# Two objects: the sides of their boxes whose product is compared, and whether the first one is larger
_SIDES = {
    "larger": ((0, 1), True),
    "smaller": ((0, 1), False),
    "taller": ((1,), True),
    "shorter": ((1,), False),
    "wider": ((0,), True),
    "narrower": ((0,), False),
}
PAIRS = frozenset([*_AXES, *_SIDES])
# One object among all: the relation that it has to every other one
EXTREMES = {
    "leftmost": "left",
    "rightmost": "right",
    "highest": "above",
    "lowest": "below",
    "closest": "front",
    "farthest": "behind",
    "largest": "larger",
    "smallest": "smaller",
    "tallest": "taller",
    "widest": "wider",
}
# One object: the part of the image that its centre is in, as limits of x and of y
_PLACES = {
    "at left": ((0.0, 0.45), (0.0, 1.0)),
    "at right": ((0.55, 1.0), (0.0, 1.0)),
    "at top": ((0.0, 1.0), (0.0, 0.45)),
    "at bottom": ((0.0, 1.0), (0.55, 1.0)),
    "at middle": ((0.3, 0.7), (0.3, 0.7)),
}
_NOT_PLACES = {  # where the centre is if the object is certainly not there; between the two, nobody can say
    "at left": ((0.55, 1.0), (0.0, 1.0)),
    "at right": ((0.0, 0.45), (0.0, 1.0)),
    "at top": ((0.0, 1.0), (0.55, 1.0)),
    "at bottom": ((0.0, 1.0), (0.0, 0.45)),
}

_GAP = 0.03  # of the scene's box: centres that are closer along an axis are not compared
_RATIO = 1.2  # of two sizes that are compared
_SIGMAS = 2.0
_TILT = math.radians(35.0)  # of a camera whose gravity is unknown, at most
_HEDGED = 0.1  # relative error that "about 2 meters" allows


@dataclass(frozen=True)
class Name:
    """A description in a text: of an object in one view, or of the objects with this name in all views."""

    description: str  # the description in meta
    view: int | None = None  # number of the view from 0; None if the text does not name an image


@dataclass(frozen=True)
class Claim:
    """One statement about geometry.

    Example:
        >>> ball = {"description": "ball", "extent_m": [0, 0, 1, 1, 1, 2], "centre_xy": [0.2, 0.5], "depth_m": 1.1}
        >>> box = {"description": "box", "extent_m": [2, 0, 1, 3, 1, 2], "centre_xy": [0.8, 0.5], "depth_m": 1.2}
        >>> facts = {"objects": [ball, box], "scene_box": [0, 0, 0, 4, 4, 4], "depth_noise": 0.0}
        >>> Claim("left", (Name("ball"), Name("box"))).truth([facts])
        True
        >>> Claim("left", (Name("ball"), Name("box")), negated=True).truth([facts])
        False
        >>> print(Claim("front", (Name("ball"), Name("box"))).truth([facts]))  # their depths are too similar
        None
    """

    # a name in `PAIRS`, in `EXTREMES` or in the table of places; or "depth", "distance", "count", "exists"
    relation: str
    names: tuple[Name, ...] = ()  # the objects, in the order of the relation
    value: float = 0.0  # metres, or a number of objects
    slack: float = 0.0  # the largest error of the value that the text allows, from its last digit
    noun: str = ""  # for a count: what is counted; "" = all objects
    negated: bool = False  # the text says that it is not so

    def denied(self) -> Claim:
        """The opposite claim."""
        return replace(self, negated=not self.negated)

    def truth(self, views: Sequence[Facts]) -> bool | None:
        """Whether the claim is true. None: it is too close to call, or the layout does not show it.

        Without the name of an image, it has to be clear and the same in every view that shows all its objects.
        """
        found = _across_views(self, views)
        return found if found is None or not self.negated else not found


def _across_views(claim: Claim, views: Sequence[Facts]) -> bool | None:
    named = {name.view for name in claim.names if name.view is not None}
    if len(named) > 1:  # objects of different images: only their depths can be compared
        return _compare_depths(claim, views)
    if any(not 0 <= view < len(views) for view in named):
        return None
    verdicts: set[bool | None] = set()
    for facts in [views[view] for view in named] or views:
        things = [_find(name, facts) for name in claim.names]
        present = [thing for thing in things if thing is not None]
        if claim.relation == "exists":
            verdicts.add(bool(present))
        elif len(present) == len(things):
            verdicts.add(_truth(claim, present, facts))
    if claim.relation == "exists":
        return any(verdicts)
    return verdicts.pop() if len(verdicts) == 1 else None


def _find(name: Name, facts: Facts) -> Mapping[str, Any] | None:
    return next((thing for thing in facts["objects"] if thing["description"] == name.description), None)


def _truth(claim: Claim, things: Sequence[Mapping[str, Any]], facts: Facts) -> bool | None:
    if claim.relation in PAIRS:
        return _holds(claim.relation, things[0], things[1], facts)
    if claim.relation in EXTREMES:
        others = [thing for thing in facts["objects"] if thing is not things[0]]
        found = [_holds(EXTREMES[claim.relation], things[0], other, facts) for other in others]
        return False if False in found else None if None in found or not found else True
    if claim.relation in _PLACES:
        return _is_at(claim.relation, things[0]["centre_xy"])
    if claim.relation == "depth":
        return _is_length(claim, things[0]["depth_m"], facts["depth_noise"] * things[0]["depth_m"])
    if claim.relation == "distance":
        centres = [centre_of(thing["extent_m"]) for thing in things]
        return _is_length(claim, math.dist(*centres), facts["depth_noise"] * math.hypot(centres[0][2], centres[1][2]))
    if claim.relation == "count":
        names = [thing["description"].lower() for thing in facts["objects"]]
        return claim.value == sum(is_called(name, claim.noun) for name in names)
    return None


def is_called(description: str, noun: str) -> bool:
    """Whether a description is that of a thing of this name: "small red box on the floor" is a "box" and a "red box".

    Example:
        >>> is_called("small red box on the floor", "red box"), is_called("red box", "floor"), is_called("red box", "")
        (True, False, True)
    """
    words, core = noun.lower().split(), core_of(description).split()
    return not words or (core[-1:] == words[-1:] and set(words) <= set(core))


def core_of(description: str) -> str:
    """A description without the place at its end.

    Example:
        >>> core_of("Small red box on the floor")
        'small red box'
    """
    words = description.lower().split()
    places = {"on", "in", "at", "by", "with", "near", "next", "under", "above", "below", "behind", "of", "to", "from"}
    end = next((i for i, word in enumerate(words) if i and word in places), len(words))
    return " ".join(words[:end])


def _holds(relation: str, a: Mapping[str, Any], b: Mapping[str, Any], facts: Facts) -> bool | None:
    noise = facts["depth_noise"]
    if relation in _SIDES:
        axes, larger = _SIDES[relation]
        sizes = [math.prod(thing["extent_m"][i + 3] - thing["extent_m"][i] for i in axes) for thing in (a, b)]
        if min(sizes) <= 0:
            return None
        ratio = math.log(sizes[0] / sizes[1])
        if abs(ratio) <= math.log(_RATIO) + len(axes) * _SIGMAS * math.sqrt(2) * noise:
            return None
        cut = (b if ratio > 0 else a).get("cut", False)  # the smaller one may be larger than what the image shows
        return None if cut else (ratio > 0) == larger
    axis, first_is_less = _AXES[relation]
    first, second = centre_of(a["extent_m"]), centre_of(b["extent_m"])
    gap = second[axis] - first[axis]
    box = facts["scene_box"]
    needed = _SIGMAS * noise * math.hypot(first[axis], second[axis]) + _GAP * (box[axis + 3] - box[axis])
    seen = b["depth_m"] - a["depth_m"] if axis == 2 else b["centre_xy"][axis] - a["centre_xy"][axis]
    if abs(gap) <= needed or gap * seen <= 0:
        return None
    if axis == 1 and "up" in facts and not _gravity_agrees(a, b, gap, needed, facts):
        return None
    return (gap > 0) == first_is_less


def _gravity_agrees(a: Mapping[str, Any], b: Mapping[str, Any], gap: float, needed: float, facts: Facts) -> bool:
    """Whether the object that is higher for the camera is the higher one along gravity.

    Where gravity is unknown, every direction up within 35 degrees of the camera's own must agree. Older data sets have
    no entry ``up``; there, "above" is along the camera's own vertical.
    """
    if facts["up"] is not None:
        rise = sum(a["heights_m"]) / 2 - sum(b["heights_m"]) / 2
        return abs(rise) > needed and (rise > 0) == (gap > 0)
    return abs(gap) > math.sin(_TILT) * math.dist(centre_of(a["extent_m"]), centre_of(b["extent_m"]))


def _is_at(place: str, centre_xy: Sequence[float]) -> bool | None:
    def inside(limits: tuple[tuple[float, float], tuple[float, float]]) -> bool:
        return all(low <= value <= high for value, (low, high) in zip(centre_xy, limits, strict=True))

    if inside(_PLACES[place]):
        return True
    return False if place in _NOT_PLACES and inside(_NOT_PLACES[place]) else None


def _is_length(claim: Claim, metres: float, sigma: float) -> bool | None:
    error = abs(claim.value - metres)
    if error <= claim.slack + _SIGMAS * sigma + 1e-9:
        return True
    return False if error > claim.slack + 2 * _SIGMAS * sigma + 0.02 else None


def _compare_depths(claim: Claim, views: Sequence[Facts]) -> bool | None:
    """Whether an object is closer to its own camera than an object of another image to its own."""
    if claim.relation not in ("front", "behind") or any(name.view is None for name in claim.names):
        return None
    if any(not 0 <= name.view < len(views) for name in claim.names):  # type: ignore[operator]
        return None
    facts = [views[name.view] for name in claim.names]  # type: ignore[index]
    things = [_find(name, view) for name, view in zip(claim.names, facts, strict=True)]
    if None in things:
        return None
    depths = [thing["depth_m"] for thing in things]  # type: ignore[index]
    noise = math.hypot(*(view["depth_noise"] * depth for view, depth in zip(facts, depths, strict=True)))
    if abs(depths[0] - depths[1]) <= 0.03 * min(depths) + _SIGMAS * noise:
        return None
    return (depths[0] < depths[1]) == (claim.relation == "front")


def slack_of(number: str, unit: float, *, hedged: bool) -> float:
    """The error that a number in a text allows: half of its last digit, and a tenth of it after "about".

    Example:
        >>> round(slack_of("2.3", 1.0, hedged=False), 6), round(slack_of("2", 1.0, hedged=True), 6)
        (0.05, 0.2)
    """
    decimals = len(number.partition(".")[2])
    last_digit = 0.5 * 10**-decimals * unit
    if not decimals:
        last_digit = min(last_digit, _HEDGED * float(number) * unit)  # "2 meters" is not any value from 1.5 to 2.5
    return max(last_digit, _HEDGED * float(number) * unit) if hedged else last_digit
