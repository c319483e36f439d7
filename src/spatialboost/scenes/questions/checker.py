"""Recompute every answer of a conversation, by a path that shares no code with the one that wrote it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from spatialboost.scenes.camera import unproject
from spatialboost.scenes.cues import Cues

_NUMBER = r"-?\d+\.\d\d"
_POINT = re.compile(rf"\(({_NUMBER}), ({_NUMBER})\)")
_LENGTH = re.compile(r"(\d+\.\d{3}) meters|(\d+\.\d) centimeters")
_CUBE = rf"\[({_NUMBER}(?:, {_NUMBER}){{5}})\]"
# What a word claims about the first object: which relation, and whether it comes first in it.
_CLAIMS = {
    "left": ("left_right", True),
    "right": ("left_right", False),
    "above": ("above_below", True),
    "below": ("above_below", False),
    "in front of": ("front_behind", True),
    "behind": ("front_behind", False),
    "larger": ("larger_smaller", True),
    "smaller": ("larger_smaller", False),
}
_WORD = re.compile(rf"\b({'|'.join(_CLAIMS)})\b")
_AXIS = {"left_right": 0, "above_below": 1, "front_behind": 2}
_LEVEL = {"depth": 0, "closer": 0, "distance": 2, "caption": 3, "caption_question": 3}  # relations: 1
_ROUNDING = 1e-6  # meta keeps six decimals


def check_conversation(messages: Sequence[dict[str, str]], meta: dict[str, Any]) -> list[str]:
    r"""Recompute every answer from ``meta`` alone and say what disagrees.

    Example:
        >>> turn = {"kind": "depth", "points": [[0.5, 0.5]], "pixels": [[20, 20]], "depths": [2.0], "template": 0}
        >>> meta = {
        ...     "order": "forward", "images": 1, "size": [40, 40], "depth_noise": 0.0, "scene_box": [0, 0, 1, 1, 1, 2],
        ...     "objects": [], "turns": [turn],
        ... }
        >>> question = {"role": "user", "content": "<image>\nWhat is the depth value at coordinate (0.50, 0.50)?"}
        >>> check_conversation([question, {"role": "assistant", "content": "The depth is 2.000 meters."}], meta)
        []
        >>> check_conversation([question, {"role": "assistant", "content": "The depth is 2.100 meters."}], meta)
        ['turn 1 (depth): the answer says 2.1 m, the ground truth is 2.000000 m']

    The text is parsed by regular expressions; relations are recomputed from the extents of the objects, and again from
    the cubes as they are printed.

    Returns:
        One sentence a problem; empty if all is right. A broken ``meta`` is a problem, not an exception.
    """
    try:
        problems = list(_check_frame(messages, meta))
        turns = meta["turns"]
    except (KeyError, TypeError, AttributeError) as error:
        return [f"meta or messages are not in the expected form: {error!r}"]
    if problems:
        return problems
    for number, turn in enumerate(turns):
        question, answer = (messages[2 * number + i]["content"] for i in (0, 1))
        question = question.removeprefix("<image>\n" * meta["images"]) if number == 0 else question
        try:
            check = _CHECKS.get(turn["kind"], _check_relation)
            found = list(check(question, answer, turn, meta))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            found = [f"its ground truth is not in the expected form: {error!r}"]
        problems += [f"turn {number + 1} ({turn.get('kind')}): {problem}" for problem in found]
    return problems


def check_against_cues(messages: Sequence[dict[str, str]], meta: dict[str, Any], cues: Cues) -> list[str]:
    """Verify the facts in ``meta`` from the depth map and the masks themselves, and the answers with them.

    Depth is read at the coordinates that the text names; boxes and relations are measured again from all points of each
    mask (``build_conversation`` takes them from a sample), so a bound may be off by one percentile.

    Example:
        >>> check_against_cues(talk.messages, talk.meta, cues)  # doctest: +SKIP
        []

    Returns:
        One sentence a problem, those of :func:`check_conversation` included; empty if all is right.
    """
    problems = check_conversation(messages, meta)
    if problems:
        return problems
    if tuple(meta["size"]) != cues.size:
        return [f"meta says that the image is {tuple(meta['size'])}, the view is {cues.size}"]
    if meta["depth_noise"] != cues.depth_noise or meta["source"] != cues.source:
        problems.append("meta names another source or another noise of its depth than the view")
    for number, turn in enumerate(meta["turns"]):
        if "points" in turn:
            asked = messages[2 * number]["content"]
            problems += [f"turn {number + 1}: {problem}" for problem in _check_points(asked, turn, cues)]
    points_HW3 = unproject(cues.depth_HW, cues.intrinsics_33)
    points_P3 = points_HW3[cues.valid_HW]
    if not _are_bounds(meta["scene_box"], points_P3, (1, 99)):
        box = _bounds(points_P3, (1, 99)).round(3).tolist()
        problems.append(f"the scene's box is {box}, meta says {meta['scene_box']}")
    extents = []
    for fact in meta["objects"]:
        masks = [thing.mask_HW for thing in cues.objects if _bare(thing.description) == fact["description"]]
        if len(masks) != 1:
            return [*problems, f"{len(masks)} masks are called {fact['description']!r}, expected one"]
        seen = masks[0] & cues.valid_HW
        extents.append(_bounds(points_HW3[seen], (2, 98)))
        rows, columns = np.nonzero(masks[0])
        centre = [(columns.mean() + 0.5) / cues.size[1], (rows.mean() + 0.5) / cues.size[0]]
        if not _are_bounds(fact["extent_m"], points_HW3[seen], (2, 98)):
            spans = extents[-1].round(3).tolist()
            problems.append(f"{fact['description']!r} spans {spans}, meta says {fact['extent_m']}")
        if seen.sum() != fact["pixels"] or not np.allclose(centre, fact["centre_xy"], atol=1e-5):
            problems.append(f"{fact['description']!r}: the mask's size or centre is not what meta says")
        if abs(np.median(cues.depth_HW[seen]) - fact["depth_m"]) > 1e-4:
            problems.append(f"{fact['description']!r}: the median depth is not what meta says")
    for number, turn in enumerate(meta["turns"]):
        if "holds" in turn:
            kind, holds = _CLAIMS[turn["holds"]]
            if _first_holds(kind, *(extents[i] for i in turn["objects"])) != holds:
                problems.append(f"turn {number + 1}: measured again, {turn['holds']!r} does not hold")
    return problems


def _check_frame(messages: Sequence[dict[str, str]], meta: dict[str, Any]) -> Iterator[str]:
    turns = meta["turns"]
    if [message["role"] for message in messages] != ["user", "assistant"] * len(turns):
        yield f"expected {len(turns)} questions with one answer each, found roles {[m['role'] for m in messages]}"
        return
    tags = [message["content"].count("<image>") for message in messages]
    if sum(tags) != meta["images"] or not messages[0]["content"].startswith("<image>\n" * meta["images"]):
        yield f"expected the first message to begin with {meta['images']} image lines and no others; counts are {tags}"
    levels = [_LEVEL.get(turn["kind"], 1) for turn in turns]
    spatial = [level for level in levels if level < 3]
    if levels != spatial + [3] * (len(levels) - len(spatial)):
        yield "the caption is not last"
    if meta["order"] != "random" and spatial != sorted(spatial, reverse=meta["order"] == "reverse"):
        yield f"the turns' levels are {spatial}, which is not the order {meta['order']!r}"


def _check_depth(question: str, answer: str, turn: dict[str, Any], meta: dict[str, Any]) -> Iterator[str]:
    yield from _check_named_points(question, turn, meta, 1)
    if not re.match(r"What is the depth\b", question):
        yield f"the question {question!r} does not ask for a depth"
    said = re.fullmatch(rf"The depth is ({_LENGTH.pattern})\.", answer)
    yield from _check_length(said and said[1], turn["depths"][0])


def _check_closer(question: str, answer: str, turn: dict[str, Any], meta: dict[str, Any]) -> Iterator[str]:
    yield from _check_named_points(question, turn, meta, 2)
    if not re.fullmatch(rf"Which point is close.* Point 1 : {_POINT.pattern} Point 2 : {_POINT.pattern}", question):
        yield f"the question {question!r} does not ask which point is closer"
    first, second = turn["depths"]
    if abs(first - second) <= 2 * meta["depth_noise"] * math.hypot(first, second):
        yield f"depths {first} and {second} differ by no more than the noise of their source"
    nearer = 1 if first < second else 2
    if answer != f"Point {nearer} is closer than Point {3 - nearer}.":
        yield f"the answer is {answer!r}, but point {nearer} is closer ({first:.3f} m and {second:.3f} m)"
    if turn["verdict"] != nearer:
        yield f"the recorded verdict is {turn['verdict']}, but point {nearer} is closer"


def _check_relation(
    question: str, answer: str, turn: dict[str, Any], meta: dict[str, Any]
) -> Generator[str, None, None]:
    a, b = (meta["objects"][i] for i in turn["objects"])
    asked = re.fullmatch(
        rf"(?:Is|Does) the {re.escape(a['description'])} (.+) the {re.escape(b['description'])}\?", question
    )
    word = asked and _WORD.search(asked[1])
    if not asked or not word or word[1] != turn["asked"]:
        expected = f"{a['description']!r} is {turn['asked']} {b['description']!r}"
        yield f"the question {question!r} does not ask whether {expected}"
        return
    if _CLAIMS[word[1]][0] != turn["kind"]:
        yield f"the question is about {_CLAIMS[word[1]][0]}"
    holds = yield from _check_rationale(answer, turn["kind"], a, b, meta)
    if holds is None:
        return
    said = re.search(r" Answer: (Yes|No)\.$", answer)
    right = _CLAIMS[word[1]][1] == holds
    if not said or (said[1] == "Yes") != right:
        yield f"the answer ends in {answer[-12:]!r}, but {'yes' if right else 'no'} is right"
    if turn["verdict"] != right or (_CLAIMS[turn["holds"]] != (turn["kind"], holds)):
        yield f"the recorded verdict is {turn['verdict']} ({turn['holds']}), recomputed {right}"


def _check_distance(
    question: str, answer: str, turn: dict[str, Any], meta: dict[str, Any]
) -> Generator[str, None, None]:
    a, b = (meta["objects"][i] for i in turn["objects"])
    names = re.escape(a["description"]), re.escape(b["description"])
    if not re.fullmatch(
        r"(?:How far is|What is the distance between) the {} (?:from|and) the {}\?".format(*names), question
    ):
        yield f"the question {question!r} does not ask how far {a['description']!r} is from {b['description']!r}"
    holds = yield from _check_rationale(answer, turn["relation"], a, b, meta)
    if holds is not None and _CLAIMS[turn["holds"]] != (turn["relation"], holds):
        yield f"the recorded relation {turn['holds']!r} does not hold"
    metres = math.dist(_centre(a["extent_m"]), _centre(b["extent_m"]))
    said = re.search(rf" Answer: ({_LENGTH.pattern})\.$", answer)
    yield from _check_length(said and said[1], metres)
    if abs(metres - turn["distance"]) > 2 * _ROUNDING:
        yield f"the recorded distance is {turn['distance']} m, recomputed {metres:.6f} m"


def _check_caption(question: str, answer: str, turn: dict[str, Any], meta: dict[str, Any]) -> Iterator[str]:
    if not re.search(r"\bscene\b", question):
        yield f"the question {question!r} does not ask for a caption"
    things = [meta["objects"][i] for i in turn["objects"]]
    middles = [thing["centre_xy"][0] for thing in things]
    if middles != sorted(middles):
        yield "the objects are not named from left to right"
    named = [rf"an? {re.escape(thing['description'])}" for thing in things]
    listed = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
    start = "From left to right, the" if turn["ordered"] else "The"
    said = re.fullmatch(
        rf"{start} scene shows {listed}\.(?: The (?P<closest>.+) is the closest to the viewer\.)?", answer
    )
    if not said:
        yield f"the caption {answer!r} does not name {[thing['description'] for thing in things]} in this order"
        return
    closest = None if turn["closest"] is None else meta["objects"][turn["closest"]]["description"]
    if said["closest"] != closest:
        yield f"the caption calls {said['closest']!r} the closest, ground truth says {closest!r}"
    if turn["closest"] is not None and not _is_extreme(turn["closest"], turn["objects"], meta, closest=True):
        yield f"{closest!r} is not the closest of the objects"


def _check_caption_question(question: str, answer: str, turn: dict[str, Any], meta: dict[str, Any]) -> Iterator[str]:
    if re.match(r"How many", question):
        count = len(turn["objects"])
        if answer != f"{count} object{'' if count == 1 else 's'}." or turn["verdict"] != count:
            yield f"the answer is {answer!r}, but there are {count} objects"
        return
    far = re.search(r"\bfarthest\b", question) is not None
    if not far and not re.search(r"\b(closest|nearest)\b", question):
        yield f"the question {question!r} is none that a caption is asked"
        return
    winner = meta["objects"][turn["verdict"]]["description"]
    if answer != f"The {winner}.":
        yield f"the answer is {answer!r}, the ground truth is {winner!r}"
    if not _is_extreme(turn["verdict"], turn["objects"], meta, closest=not far):
        yield f"{winner!r} is not the {'farthest' if far else 'closest'} of the objects"


_CHECKS: dict[str, Callable[[str, str, dict[str, Any], dict[str, Any]], Iterator[str]]] = {
    "depth": _check_depth,
    "closer": _check_closer,
    "distance": _check_distance,
    "caption": _check_caption,
    "caption_question": _check_caption_question,
}


def _check_named_points(question: str, turn: dict[str, Any], meta: dict[str, Any], count: int) -> Iterator[str]:
    named = _POINT.findall(question)
    if len(named) != count or len(turn["depths"]) != count:
        yield f"expected {count} points in {question!r}, found {len(named)}"
        return
    for x_y, point, pixel in zip(named, turn["points"], turn["pixels"], strict=True):
        if [float(part) for part in x_y] != point:
            yield f"the question names {x_y}, the ground truth is of {point}"
        if _pixel(x_y, meta["size"]) != tuple(pixel):
            yield f"point {x_y} lies in pixel {_pixel(x_y, meta['size'])}, the ground truth is of {pixel}"


def _check_length(text: str | None, metres: float) -> Iterator[str]:
    parsed = _LENGTH.fullmatch(text or "")
    if not parsed:
        yield "the answer states no length in the expected form"
        return
    said = float(parsed[1]) if parsed[1] else float(parsed[2]) / 100
    if abs(said - metres) > 0.0005 + 2 * _ROUNDING:
        yield f"the answer says {said} m, the ground truth is {metres:.6f} m"
    if (parsed[1] is None) != (said < 0.5):
        yield f"{text!r}: expected centimeters below half a meter, meters from there on"


def _check_rationale(
    answer: str, kind: str, a: dict[str, Any], b: dict[str, Any], meta: dict[str, Any]
) -> Generator[str, None, bool | None]:
    """Check cubes and comparison; returns whether the relation's first word holds, None where nothing can be parsed."""
    names = re.escape(a["description"]), re.escape(b["description"])
    said = re.match(
        r"The {0} is located {2} in the image\. The {1} is located {2} in the image\. "
        r"Comparing their 3D (?:positions|sizes), the {0} is (.+) the {1}\. Answer: ".format(*names, _CUBE),
        answer,
    )
    word = said and _WORD.search(said[3])
    if not said or not word:
        yield f"the answer {answer!r} does not state both cubes and their comparison in the expected form"
        return None
    cubes = [[float(side) for side in said[i].split(", ")] for i in (1, 2)]
    low, size = np.array(meta["scene_box"][:3]), np.diff(np.reshape(meta["scene_box"], (2, 3)), axis=0)[0]
    for cube, thing in zip(cubes, (a, b), strict=True):
        scaled = ((np.reshape(thing["extent_m"], (2, 3)) - low) / np.maximum(size, 1e-3)).clip(0, 1).ravel()
        # six decimals of metres become coarser in a thin scene's box
        if np.abs(scaled - thing["cube"]).max() > 4 * _ROUNDING / max(size.min(), 1e-3) + _ROUNDING:
            recomputed = np.round(scaled, 4).tolist()
            yield f"the recorded cube of {thing['description']!r} is {thing['cube']}, recomputed {recomputed}"
        if np.abs(np.subtract(cube, thing["cube"])).max() > 0.005 + _ROUNDING:
            yield f"the answer gives {thing['description']!r} the cube {cube}, the ground truth is {thing['cube']}"
    holds = _first_holds(kind, a["extent_m"], b["extent_m"])
    if _first_holds(kind, *cubes) != holds:
        yield "the cubes as printed do not show the relation that holds"
    if not _is_beyond_noise(kind, a["extent_m"], b["extent_m"], meta["depth_noise"]):
        yield "the two objects differ by no more than the noise of their source"
    if _CLAIMS[word[1]] != (kind, holds):
        yield f"the comparison says {word[1]!r}, which does not hold"
    return holds


def _first_holds(kind: str, a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether the first of two boxes is the left, upper, nearer or larger one."""
    if kind == "larger_smaller":
        return (a[3] - a[0]) * (a[4] - a[1]) > (b[3] - b[0]) * (b[4] - b[1])
    return _centre(a)[_AXIS[kind]] < _centre(b)[_AXIS[kind]]


def _is_beyond_noise(kind: str, a: Sequence[float], b: Sequence[float], noise: float) -> bool:
    if kind == "larger_smaller":
        areas = [(box[3] - box[0]) * (box[4] - box[1]) for box in (a, b)]
        return abs(math.log(areas[0]) - math.log(areas[1])) > 4 * math.sqrt(2) * noise
    first, second = _centre(a)[_AXIS[kind]], _centre(b)[_AXIS[kind]]
    return abs(first - second) > 2 * noise * math.hypot(first, second)


def _is_extreme(winner: int, among: Sequence[int], meta: dict[str, Any], *, closest: bool) -> bool:
    depths = {i: _centre(meta["objects"][i]["extent_m"])[2] for i in among}
    return winner == (min if closest else max)(depths, key=lambda i: depths[i])


def _bare(description: str) -> str:
    return re.sub(r"(?i)^(a|an|the) ", "", " ".join(description.split())).rstrip(".")


def _centre(box: Sequence[float]) -> list[float]:
    return [(box[i] + box[i + 3]) / 2 for i in range(3)]


def _pixel(x_y: Sequence[str], size: Sequence[int]) -> tuple[int, int]:
    """(row, column) of the pixel that holds a point given as decimal text; exact."""
    x, y = (Fraction(part) for part in x_y)
    return math.floor(y * size[0]), math.floor(x * size[1])


def _check_points(question: str, turn: dict[str, Any], cues: Cues) -> Iterator[str]:
    """Read the depth at the coordinates in the text, and around them."""
    height, width = cues.size
    around = []
    for x_y, recorded in zip(_POINT.findall(question), turn["depths"], strict=True):
        row, column = _pixel(x_y, cues.size)
        if not cues.valid_HW[row, column] or abs(float(cues.depth_HW[row, column]) - recorded) > 1e-5:
            yield f"the depth at {x_y} is {cues.depth_HW[row, column]}, meta says {recorded}"
        x, y = (Fraction(part) for part in x_y)
        half = Fraction(1, 200)
        near = [
            (math.floor((y + dy) * height), math.floor((x + dx) * width))
            for dy in (-half, 0, half)
            for dx in (-half, 0, half)
        ]
        if not all(cues.valid_HW[pixel] for pixel in near):
            yield f"half a percent beside {x_y} there is no depth reading"
        around.append([float(cues.depth_HW[pixel]) for pixel in near])
    if turn["kind"] == "closer" and max(around[turn["verdict"] - 1]) >= min(around[2 - turn["verdict"]]):
        yield "moving a point by half a percent turns the answer round"


def _bounds(points_P3: np.ndarray, percentiles: tuple[float, float]) -> np.ndarray:
    return np.percentile(points_P3, percentiles, axis=0).ravel()


def _are_bounds(box: Sequence[float], points_P3: np.ndarray, percentiles: tuple[float, float]) -> bool:
    """Whether the box lies at these percentiles, by the share of points beyond it; one percentile is granted."""
    bounds_23, slack = np.reshape(box, (2, 3)), 0.01 + 1 / len(points_P3)
    for bound_3, percent in zip(bounds_23, percentiles, strict=True):
        below_3, up_to_3 = (points_P3 < bound_3 - 1e-5).mean(0), (points_P3 <= bound_3 + 1e-5).mean(0)
        if (below_3 > percent / 100 + slack).any() or (up_to_3 < percent / 100 - slack).any():
            return False
    return True
