"""Recompute every answer of a conversation. This shares no code with the part that writes the answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.camera import unproject
from spatialboost.scenes.cues import Cues
from spatialboost.scenes.questions.checks import MeasuredView, check_named
from spatialboost.scenes.questions.checks.boxes import bare_name
from spatialboost.scenes.questions.meta import IMAGE_TAG, facts_of_views
from spatialboost.scenes.scene import Scene, as_scene

_BROKEN = (KeyError, TypeError, ValueError, IndexError, AttributeError)  # exceptions that a broken meta causes
_CAPTION_LEVEL = 3


def check_conversation(messages: Sequence[dict[str, str]], meta: dict[str, Any]) -> list[str]:
    r"""Recompute every answer from ``meta`` alone and list what is wrong.

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

    The text is parsed with regular expressions. Relations are recomputed from the extents of the objects, and a second
    time from the cubes in the text.

    Returns:
        One sentence for each problem; empty if everything is right. A broken ``meta`` is a problem, not an exception.
    """
    try:
        problems = list(_check_form(messages, meta))
        turns = meta["turns"]
    except SpatialBoostError as error:  # a kind without a registered check
        return [str(error)]
    except _BROKEN as error:
        return [f"meta or messages are not in the expected form: {error!r}"]
    if problems:
        return problems
    for number, turn in enumerate(turns):
        try:
            question = _bare_question(messages, meta, number)
            answer = messages[2 * number + 1]["content"]
            found = list(check_named(turn["kind"]).check(question, answer, turn, _facts_of_turn(turn, meta)))
            found += _check_place(turns, number)
        except _BROKEN as error:
            named = isinstance(error, SpatialBoostError)
            found = [str(error) if named else f"its ground truth is not in the expected form: {error!r}"]
        problems += [f"turn {number + 1} ({turn['kind']}): {problem}" for problem in found]
    return problems


def check_against_cues(messages: Sequence[dict[str, str]], meta: dict[str, Any], cues: Cues | Scene) -> list[str]:
    """Verify ``meta`` and the answers against the depth maps and masks of the view or scene.

    Depth is read at the coordinates in the text. Boxes and relations are measured again from all points of each mask.
    ``build_conversation`` measures them from a sample of the points, so a bound may differ by one percentile.

    Example:
        >>> check_against_cues(talk.messages, talk.meta, cues)  # doctest: +SKIP
        []

    Returns:
        One sentence for each problem, including those of :func:`check_conversation`; empty if everything is right.
    """
    problems = check_conversation(messages, meta)
    if problems:
        return problems
    scene, all_facts = as_scene(cues), facts_of_views(meta)
    if len(scene.views) != len(all_facts):
        return [f"meta has {len(all_facts)} views, but the scene has {len(scene.views)}"]
    measured: list[MeasuredView] = []
    for number, (view, facts) in enumerate(zip(scene.views, all_facts, strict=True)):
        where = f"image {number + 1}: " if len(all_facts) > 1 else ""
        if tuple(facts["size"]) != view.size:
            return [f"{where}the image size in meta is {tuple(facts['size'])}, but the view is {view.size}"]
        if "pose" in facts and not np.allclose(facts["pose"], scene.poses[number], atol=1e-6):
            problems.append(f"{where}the pose in meta is not the pose of the view")
        found_view, found = _measure_view(facts, view)
        problems += [f"{where}{problem}" for problem in found]
        measured.append(found_view)
    if any(len(view.extents) != len(facts["objects"]) for view, facts in zip(measured, all_facts, strict=True)):
        return problems
    for number, turn in enumerate(meta["turns"]):
        question = _bare_question(messages, meta, number)
        views = [measured[turn["view"]]] if "view" in turn else measured
        found = list(check_named(turn["kind"]).measure(question, turn, views))
        problems += [f"turn {number + 1}: {problem}" for problem in found]
    return problems


def _check_form(messages: Sequence[dict[str, str]], meta: dict[str, Any]) -> Iterator[str]:
    """Check roles, image lines, and the order of the turns."""
    turns, images = meta["turns"], meta["images"]
    if [message["role"] for message in messages] != ["user", "assistant"] * len(turns):
        yield f"expected {len(turns)} questions with one answer each, found roles {[m['role'] for m in messages]}"
        return
    if len(facts_of_views(meta)) != images:
        yield f"meta has the facts of {len(facts_of_views(meta))} views, but its image count is {images}"
    tags = [message["content"].count(IMAGE_TAG) for message in messages]
    if sum(tags) != images or not messages[0]["content"].startswith(f"{IMAGE_TAG}\n" * images):
        yield f"expected the first message to begin with {images} image lines and no others; counts are {tags}"
    levels = [check_named(turn["kind"]).level for turn in turns]
    spatial = [level for level in levels if level < _CAPTION_LEVEL]
    if levels != spatial + [_CAPTION_LEVEL] * (len(levels) - len(spatial)):
        yield "the caption is not last"
    if meta["order"] != "random" and spatial != sorted(spatial, reverse=meta["order"] == "reverse"):
        yield f"the turns' levels are {spatial}, which is not the order {meta['order']!r}"


def _check_place(turns: Sequence[dict[str, Any]], number: int) -> Iterator[str]:
    """Check that a question that refers to an earlier turn comes after it and has the same view and objects."""
    follows = check_named(turns[number]["kind"]).follows
    if follows is None:
        return
    earlier = [turn for turn in turns[:number] if turn["kind"] == follows]
    if not earlier:
        yield f"there is no turn of {follows} before it"
    elif any(earlier[-1].get(key) != turns[number].get(key) for key in ("view", "objects")):
        yield f"it is about another view or other objects than the turn of {follows} before it"


def _bare_question(messages: Sequence[dict[str, str]], meta: dict[str, Any], number: int) -> str:
    """The question without the image lines and without the name of the view."""
    question = messages[2 * number]["content"]
    if number == 0:
        question = question.removeprefix(f"{IMAGE_TAG}\n" * meta["images"])
    turn = meta["turns"][number]
    if "fields_of_view" in turn:
        question = _without_fields_of_view(question, turn, meta)
    if "view" not in turn:
        return question
    named = re.fullmatch(r"In image (\d+), (.)(.*)", question, re.DOTALL)
    if not named or int(named[1]) != turn["view"] + 1:
        raise SpatialBoostError(f"the question {question!r} does not name image {turn['view'] + 1}")
    return named[2].upper() + named[3]


def _without_fields_of_view(question: str, turn: dict[str, Any], meta: dict[str, Any]) -> str:
    """The question without the sentence before it, which must have the fields of view of the turn's images."""
    views = facts_of_views(meta)
    expected = []
    for facts in views if turn.get("view") is None else [views[turn["view"]]]:
        (focal, _, centre), width = facts["intrinsics"][0], facts["size"][1]
        left, right = (np.array([(x - centre) / focal, 1.0]) for x in (-0.5, width - 0.5))
        cosine = left @ right / np.linalg.norm(left) / np.linalg.norm(right)
        expected.append(float(np.degrees(np.arccos(cosine))))
    said = re.match(r"(?:[^.?]|\.\d)+\. ", question)
    stated = [float(angle) for angle in re.findall(r"(\d+\.\d) degrees", said[0])] if said else []
    if len(stated) == 1:
        stated *= len(expected)
    if not said or len(stated) != len(expected) or np.abs(np.subtract(stated, expected)).max() > 0.051:
        wanted = ", ".join(f"{angle:.1f}" for angle in expected)
        raise SpatialBoostError(
            f"the question {question!r} does not say the fields of view, which are {wanted} degrees"
        )
    return question[said.end() :]


def _facts_of_turn(turn: dict[str, Any], meta: dict[str, Any]) -> dict[str, Any]:
    """The facts of the view that a turn is about; all of ``meta`` if the turn is about the scene."""
    if "view" not in turn:
        return meta
    if turn["view"] < 0:
        raise IndexError(f"view {turn['view']}")
    return meta["views"][turn["view"]]


def _measure_view(facts: dict[str, Any], cues: Cues) -> tuple[MeasuredView, list[str]]:
    """Measure the objects in ``meta`` that have a mask, and list what is wrong with the facts."""
    problems = []
    if facts["depth_noise"] != cues.depth_noise or facts["source"] != cues.source:
        problems.append("the source or the depth noise in meta is not that of the view")
    points_HW3 = unproject(cues.depth_HW, cues.intrinsics_33)
    points_P3 = points_HW3[cues.valid_HW]
    if not _are_bounds(facts["scene_box"], points_P3, (1, 99)):
        box = _bounds(points_P3, (1, 99)).round(3).tolist()
        problems.append(f"the scene's box is {box}, but meta has {facts['scene_box']}")
    up_3 = cues.up_3 if "up" in facts else None  # older data sets do not use it
    if "up" in facts and (
        (facts["up"] is None) != (up_3 is None) or not np.allclose(facts["up"] or 0, _or_0(up_3), atol=1e-5)
    ):
        problems.append(f"the direction up is {_or_0(up_3)}, but meta has {facts['up']}")
        up_3 = None
    extents: list[np.ndarray] = []
    heights: list[np.ndarray] = []
    for fact in facts["objects"]:
        things = [thing for thing in cues.objects if bare_name(thing.description) == fact["description"]]
        if len(things) != 1:
            problems.append(f"{len(things)} masks are called {fact['description']!r}, expected one")
            break
        foreign = set(fact.get("aliases", ())) - {bare_name(alias) for alias in things[0].aliases}
        if foreign:
            problems.append(f"{fact['description']!r} is not called {sorted(foreign)} in the view")
        points_P3 = points_HW3[things[0].mask_HW & cues.valid_HW]
        extents.append(_bounds(points_P3, (2, 98)))
        problems += _measure_object(fact, things[0].mask_HW, points_P3, cues)
        if up_3 is not None:
            heights_P1 = points_P3 @ up_3[:, None]
            heights.append(_bounds(heights_P1, (2, 98)))
            if not _are_bounds(fact["heights_m"], heights_P1, (2, 98)):
                found = heights[-1].round(3).tolist()
                problems.append(f"{fact['description']!r} spans the heights {found}, but meta has {fact['heights_m']}")
    return MeasuredView(cues, extents, heights), problems


def _or_0(up_3: np.ndarray | None) -> Any:
    return 0 if up_3 is None else up_3


def _measure_object(fact: dict[str, Any], mask_HW: np.ndarray, points_P3: np.ndarray, cues: Cues) -> Iterator[str]:
    name, seen = fact["description"], mask_HW & cues.valid_HW
    rows, columns = np.nonzero(mask_HW)
    centre = [(columns.mean() + 0.5) / cues.size[1], (rows.mean() + 0.5) / cues.size[0]]
    if not _are_bounds(fact["extent_m"], points_P3, (2, 98)):
        spans = _bounds(points_P3, (2, 98)).round(3).tolist()
        yield f"{name!r} spans {spans}, but meta has {fact['extent_m']}"
    if seen.sum() != fact["pixels"] or not np.allclose(centre, fact["centre_xy"], atol=1e-5):
        yield f"{name!r}: the size or the centre of the mask differs from meta"
    if abs(np.median(cues.depth_HW[seen]) - fact["depth_m"]) > 1e-4:
        yield f"{name!r}: the median depth differs from meta"


def _bounds(points_P3: np.ndarray, percentiles: tuple[float, float]) -> np.ndarray:
    return np.percentile(points_P3, percentiles, axis=0).ravel()


def _are_bounds(box: Sequence[float], points_P3: np.ndarray, percentiles: tuple[float, float]) -> bool:
    """Whether the bounds of a box are these percentiles of the points, within one percentile."""
    bounds_23, slack = np.reshape(box, (2, -1)), 0.01 + 1 / len(points_P3)
    for bound_3, percent in zip(bounds_23, percentiles, strict=True):
        below_3, up_to_3 = (points_P3 < bound_3 - 1e-5).mean(0), (points_P3 <= bound_3 + 1e-5).mean(0)
        if (below_3 > percent / 100 + slack).any() or (up_to_3 < percent / 100 - slack).any():
            return False
    return True
