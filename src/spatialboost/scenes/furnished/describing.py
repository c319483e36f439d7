"""Descriptions of things as people give them: the noun, and what tells it from others of its kind.

"armchair", "red armchair", "armchair by the window", "lamp on the desk", "second chair from the left".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from skimage.color import rgb2lab

from spatialboost.scenes.extract.naming import name_lab
from spatialboost.scenes.furnished.place import Footprint, Place, Thing

_NEAR, _FAR = 0.55, 1.0  # metres: "next to" something, and clearly not next to it
_LANDMARKS = ("window", "door", "bed", "sofa", "table", "desk", "kitchen", "storage", "plant", "bathroom", "vehicle")
_BY = ("window", "door")  # things are "by" these and "next to" the others
_PIXELS = 240  # of each half of a thing, to name its colour
_APART = 0.03  # of the image's width: things whose middles are closer are not put in order
# Colours that people may confuse; a colour is also confused with itself
_ALIKE = [
    set(words.split())
    for words in (
        *("white grey beige", "grey black", "black brown", "brown orange beige yellow red"),
        *("red pink purple", "blue purple cyan", "green cyan", "green yellow"),
    )
]
_ORDINALS = ("", "second", "third", "fourth", "fifth", "sixth")


@dataclass(frozen=True)
class Seen:
    """What a view shows of a thing."""

    pixels: int  # number of its pixels
    column: float  # mean column of its pixels, as a fraction of the image's width
    colour: str  # name of its colour; empty if it has several


def look_at_things(image_HW3: np.ndarray, thing_HW: np.ndarray, fewest: float) -> dict[int, Seen]:
    """Measure what a view shows of each thing that has enough pixels. Below 0, there is no thing at a pixel."""
    numbers, counts = np.unique(thing_HW[thing_HW >= 0], return_counts=True)
    thing_N, width = thing_HW.ravel(), thing_HW.shape[1]
    found = {int(n): np.flatnonzero(thing_N == n) for n, count in zip(numbers, counts, strict=True) if count >= fewest}
    samples = []
    for index in found.values():
        halves = [index[: len(index) // 2], index[len(index) // 2 :]]
        samples += [half[:: max(1, len(half) // _PIXELS)] for half in halves]
    if not samples:
        return {}
    colours = rgb2lab(image_HW3.reshape(-1, 3)[np.concatenate(samples)])
    ends = np.cumsum([len(sample) for sample in samples])[:-1]
    names = [{name_lab(part)} if len(part) else set() for part in np.split(colours, ends)]
    seen = {}
    for place, (number, index) in enumerate(found.items()):
        both = names[2 * place] | names[2 * place + 1]
        colour = both.pop() if len(both) == 1 else ""
        seen[number] = Seen(len(index), float((index % width).mean() + 0.5) / width, colour)
    return seen


def describe(place: Place, views: Sequence[Mapping[int, Seen]]) -> dict[int, tuple[str, ...]]:
    """Descriptions that fit only one of the visible things, the most natural first; none if there is no such one.

    Returns:
        Number of each thing -> its descriptions. They are the same in all views.
    """
    visible: dict[int, Seen] = {}
    for view in views:
        for number, seen in view.items():
            if number not in visible or seen.pixels > visible[number].pixels:
                visible[number] = seen
    nouns = {number: place.things[number].use.noun for number in visible}
    relations = {number: _relations(place, number, visible, nouns, views) for number in visible}
    found: dict[int, tuple[str, ...]] = {}
    for number, seen in visible.items():
        noun = nouns[number]
        rivals = [other for other in visible if other != number and _is_a(nouns[other], noun)]
        options = [noun] if not rivals else []
        # A colour in the noun ("black table") leaves no room for another one.
        coloured = f"{seen.colour} {noun}" if seen.colour and seen.colour not in noun.split() else ""
        same_colour = [other for other in rivals if _may_be(visible[other].colour, seen.colour)]
        if coloured and not same_colour:
            options.append(coloured)
        for phrase, clear in relations[number].items():
            if not clear:
                continue
            if all(_holds_not(relations[other], phrase) for other in rivals):
                options.append(f"{noun} {phrase}")
            elif coloured and all(_holds_not(relations[other], phrase) for other in same_colour):
                options.append(f"{coloured} {phrase}")
        if len(views) == 1:
            options += _in_order(noun, number, rivals, visible)
            if coloured and len(same_colour) < len(rivals):
                options += _in_order(coloured, number, same_colour, visible)
        found[number] = tuple(dict.fromkeys(options))
    return {number: options for number, options in found.items() if options}


def _is_a(noun: str, other: str) -> bool:
    """Whether a thing with this noun may be called the other: a desk lamp is a lamp."""
    return noun == other or noun.endswith(f" {other}") or noun.split(" of ")[0] == other


def _may_be(colour: str, other: str) -> bool:
    """Whether a thing whose colour has one name may also be given the other."""
    return not colour or colour == other or any(colour in alike and other in alike for alike in _ALIKE)


def _holds_not(relations: Mapping[str, bool], phrase: str) -> bool:
    """Whether a phrase is clearly wrong for a thing. A phrase with False is neither right nor clearly wrong."""
    return phrase not in relations


def _relations(
    place: Place,
    number: int,
    visible: Mapping[int, Seen],
    nouns: Mapping[int, str],
    views: Sequence[Mapping[int, Seen]],
) -> dict[str, bool]:
    """Phrases about where a thing is -> whether it is clear that they are right."""
    thing = place.things[number]
    phrases: dict[str, bool] = {}
    if thing.on is not None:
        phrases[f"on the {place.things[thing.on].use.noun}"] = True
        return phrases
    if thing.use.role in ("rug", "wall", "ceiling", "window", "door"):
        return phrases
    for other in visible:
        landmark = place.things[other]
        if other == number or landmark.use.role not in _LANDMARKS or landmark.on is not None:
            continue
        if any(nouns[rival] == nouns[other] for rival in visible if rival != other) or nouns[other] == nouns[number]:
            continue
        if any(number in view and other not in view for view in views):
            continue
        gap = _gap(thing, landmark)
        if gap < _FAR:
            word = "by" if landmark.use.role in _BY else "next to"
            phrases[f"{word} the {nouns[other]}"] = gap < _NEAR
    # Only what is clear may be said; what is not clear only stops others from saying it.
    return phrases


def _gap(a: Thing, b: Thing) -> float:
    """Metres between two things on the floor."""
    first, second = a.footprint(), b.footprint()
    return float(min(_outside(first, second), _outside(second, first)))


def _outside(a: Footprint, b: Footprint) -> float:
    """Smallest distance of the corners and sides' middles of one rectangle from another rectangle."""
    corners = a.corners
    points = np.concatenate([corners, (corners + np.roll(corners, 1, 0)) / 2, [[a.x, a.z]]]) - (b.x, b.z)
    cos, sin = np.cos(b.yaw), np.sin(b.yaw)
    local = np.abs(points @ np.array([[cos, sin], [-sin, cos]])) - (b.half_x, b.half_z)
    return float(np.hypot(*np.maximum(local, 0.0).T).min())


def _in_order(noun: str, number: int, rivals: Sequence[int], visible: Mapping[int, Seen]) -> list[str]:
    """ "leftmost chair", "second chair from the left", ...: among things whose order in the image is clear."""
    if not rivals:
        return []
    column = visible[number].column
    gaps = [visible[other].column - column for other in rivals]
    if min(abs(gap) for gap in gaps) < _APART:
        return []
    left = sum(gap < 0 for gap in gaps)
    if left == 0:
        return [f"leftmost {noun}"]
    if left == len(gaps):
        return [f"rightmost {noun}"]
    if len(gaps) == 2:
        return [f"middle {noun}"]
    if left <= len(gaps) - left and left < len(_ORDINALS):
        return [f"{_ORDINALS[left]} {noun} from the left"]
    if len(gaps) - left < len(_ORDINALS):
        return [f"{_ORDINALS[len(gaps) - left]} {noun} from the right"]
    return []
