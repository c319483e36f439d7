"""Names in questions do not contain the answer, and say as little about it as possible."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import pytest

from spatialboost.scenes.cues import CuesError, SceneObject
from spatialboost.scenes.extract.segments import propose_objects
from spatialboost.scenes.questions.checker import check_against_cues, check_conversation
from spatialboost.scenes.questions.conversation import build_conversation
from spatialboost.scenes.questions.layout import RELATIONS, measure_layout
from spatialboost.scenes.questions.names import choose_names, noun_of
from spatialboost.scenes.questions.plan import TurnPlan
from spatialboost.scenes.rooms.render import render_rooms
from tiny_cues import tiny_cues

TELLING = {
    "left_right": r"\b(left|right|middle)\b",
    "above_below": r"\b(top|bottom|tall|flat|small|large|on the (wall|floor)|on a)\b",
    "front_behind": r"\b(top|bottom|tall|flat|small|large|on the (wall|floor)|on a)\b",
    "larger_smaller": r"\b(top|bottom|tall|flat|small|large|on the (wall|floor)|on a)\b",
}


@pytest.mark.parametrize(
    ("relation", "names"),
    [
        ("left_right", ("cup on the left", "cup in the middle", "leftmost cup")),
        ("above_below", ("lamp on the wall", "lamp on a table", "tall lamp", "lamp at the top", "lamp under a desk")),
        ("front_behind", ("chair in the foreground", "nearest chair", "chair at the bottom", "small chair")),
        ("larger_smaller", ("big box", "tiny box", "long box", "box on the floor")),
    ],
)
def test_names_that_contain_the_answer_are_never_used(relation, names):
    assert choose_names(relation, names, ("red thing",)) is None
    assert choose_names(relation, (*names, "blue thing"), ("red thing",)) == ("blue thing", "red thing", True)


def test_the_side_may_be_named_where_it_does_not_matter():
    assert choose_names("above_below", ("cup on the left",), ("cup on the right",)) is not None
    assert choose_names("left_right", ("cup at the top",), ("plate at the bottom",)) is not None
    assert noun_of("large grey chair in the corner of the room") == "chair"


@pytest.mark.parametrize("views", ["rooms", "superpixels"])
def test_names_in_turns_are_descriptions_of_their_objects_without_the_answer(views):
    rooms = render_rooms(range(40, 64), size=64)
    pairs = 0
    for seed, view in enumerate(rooms if views == "rooms" else [propose_objects(room) for room in rooms]):
        try:
            talk = build_conversation(view, seed=seed)
        except CuesError:
            continue
        known = {thing.description: {thing.description, *thing.aliases} for thing in view.objects}
        for turn in talk.meta["turns"]:
            if turn["kind"] not in RELATIONS:
                continue
            pairs += 1
            assert not any(re.search(TELLING[turn["kind"]], name) for name in turn["names"])
            for name, i in zip(turn["names"], turn["objects"], strict=True):
                assert name in known[talk.meta["objects"][i]["description"]]
        assert check_against_cues(talk.messages, talk.meta, view) == []
    assert pairs > (60 if views == "rooms" else 15)


def test_aliases_are_unique_in_the_view():
    view = tiny_cues()
    masks = [thing.mask_HW for thing in view.objects]
    aliases = [("thing", "red one"), ("thing",), ("the green one.", "red box"), ("<image>",)]
    named = zip(view.objects, masks, aliases, strict=True)
    view = replace(view, objects=[SceneObject(thing.description, mask, further) for thing, mask, further in named])
    assert [fact.aliases for fact in measure_layout(view).objects] == [("red one",), (), ("green one",), ()]


def test_a_view_whose_names_all_contain_the_answer_is_not_asked():
    view = tiny_cues()
    sides = ["box on the left", "ball in the middle", "cone on the right", "book at the left side"]
    renamed = [SceneObject(name, thing.mask_HW) for name, thing in zip(sides, view.objects, strict=True)]
    with pytest.raises(CuesError, match=r"every description of an object tells what is left/right; add aliases"):
        build_conversation(replace(view, objects=renamed), seed=0, plan=TurnPlan({"left_right": 1}))
    talk = build_conversation(replace(view, objects=renamed), seed=0)
    assert "left_right" in talk.meta["replaced"]


def test_the_check_finds_a_name_of_another_object_and_a_name_that_tells():
    view = render_rooms([41], size=64)[0]
    talk = build_conversation(view, seed=0, plan=TurnPlan({"front_behind": 1}))
    meta = copy.deepcopy(talk.meta)
    i, j = meta["turns"][0]["objects"]
    meta["objects"][i].pop("aliases", None)
    meta["objects"][i]["description"] = "another thing"
    assert any("is not a description of 'another thing'" in found for found in check_conversation(talk.messages, meta))
    told = copy.deepcopy(talk)
    name = told.meta["turns"][0]["names"][0]
    told.meta["turns"][0]["names"][0] = told.meta["objects"][i]["description"] = f"{name} in front"
    for message in told.messages:
        message["content"] = re.sub(rf"\bthe {name}\b", f"the {name} in front", message["content"], flags=re.IGNORECASE)
    assert any("contain the answer" in found for found in check_conversation(told.messages, told.meta))
    foreign = copy.deepcopy(talk.meta)
    foreign["objects"][j]["aliases"] = [*foreign["objects"][j].get("aliases", ()), "purple elephant"]
    assert any(
        "is not called ['purple elephant']" in found for found in check_against_cues(talk.messages, foreign, view)
    )


def test_later_turns_prefer_pairs_whose_boxes_were_not_stated():
    repeated = 0
    for seed in range(30):
        turns = build_conversation(tiny_cues(), seed=seed).meta["turns"]
        pairs = [frozenset(turn["objects"]) for turn in turns if "holds" in turn]
        repeated += len(pairs) - len(set(pairs))
    assert repeated <= 20  # of 150; there are six pairs, and not every relation is clear for each
