from __future__ import annotations

import json
import pickle
from collections import Counter
from dataclasses import asdict

import pytest

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.questions.checker import check_conversation
from spatialboost.scenes.questions.conversation import build_conversation
from spatialboost.scenes.questions.plan import PAPER, TurnPlan
from tiny_cues import BOXES, tiny_cues


def test_the_default_is_the_papers_twelve():
    assert TurnPlan().turns == dict(PAPER)
    assert (TurnPlan().total, TurnPlan().needs_objects) == (12, True)
    assert not TurnPlan({"depth": 1, "closer": 1}).needs_objects


def test_the_order_in_which_kinds_are_named_does_not_matter():
    one, other = TurnPlan({"distance": 1, "closer": 2, "depth": 1}), TurnPlan({"depth": 1, "distance": 1, "closer": 2})
    assert one == other
    assert list(one.turns) == ["depth", "closer", "distance"]
    talks = [build_conversation(tiny_cues(), seed=4, plan=plan) for plan in (one, other)]
    assert talks[0] == talks[1]


def test_a_plan_goes_through_json_and_pickle():
    plan = TurnPlan({"depth": 2, "left_right": 0}, min_gap=0.1, least=2)
    assert json.loads(json.dumps(asdict(plan))) == {
        "turns": {"depth": 2},
        "min_gap": 0.1,
        "smoothness": 0.03,
        "on_objects": 0.5,
        "least": 2,
        "wordings": None,
        "field_of_view": False,
        "cells": None,
    }
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert pickle.loads(pickle.dumps(TurnPlan())) == TurnPlan()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"turns": {"beside": 1}}, "unknown kind of question 'beside'"),
        ({"turns": {"depth": -1}}, "-1 turns of depth; expected a whole number"),
        ({"turns": {"depth": 10**20}}, "turns of depth; expected a whole number from 0 to 10000"),
        ({"turns": {"depth": 1.5}}, "1.5 turns of depth; expected a whole number"),
        ({"turns": {"depth": True}}, "True turns of depth; expected a whole number"),
        ({"turns": {}}, "has no turn"),
        ({"turns": 12}, "turns are 12; expected counts by kind"),
        ({"turns": {"caption_question": 1}}, "caption_question refers to a turn of caption; add at least one"),
        ({"min_gap": -0.1}, "must not be negative"),
        ({"on_objects": 1.1}, "at most 1"),
        ({"least": 0}, "least is 0; expected 1 to 12"),
        ({"least": 13}, "least is 13; expected 1 to 12"),
        ({"wordings": 0}, "wordings is 0; expected None for all"),
        ({"wordings": True}, "wordings is True; expected None for all"),
    ],
)
def test_a_wrong_plan_says_what_to_do(wrong, message):
    with pytest.raises(SpatialBoostError, match=message):
        TurnPlan(**wrong)


def test_a_turn_that_cannot_be_asked_is_left_out_and_the_others_stay():
    same_height = {"red box": (0.4, 0.6, 0.1, 0.3, 1.0), "blue box": (0.4, 0.6, 0.6, 0.8, 1.0)}
    view = tiny_cues(boxes=same_height)
    talk = build_conversation(view, seed=0)
    reason = "no pair of objects is clear enough to ask about"
    assert talk.meta["left_out"]["above_below"] == f"{reason} above/below"
    asked = [turn["kind"] for turn in talk.meta["turns"]]
    assert [kind for kind in PAPER if kind not in asked] == list(talk.meta["left_out"])
    assert len(talk.messages) == 2 * len(asked)
    assert {"depth", "left_right", "caption"} <= set(asked)


def test_a_turn_that_cannot_be_asked_is_replaced_by_one_of_its_level():
    stairs = {
        f"{colour} box": (0.1, 0.3, left, left + 0.15, 1 + left)
        for colour, left in (("red", 0.05), ("blue", 0.3), ("green", 0.55), ("grey", 0.8))
    }  # all at one height
    talk = build_conversation(tiny_cues(boxes=stairs), seed=1)
    asked = Counter(turn["kind"] for turn in talk.meta["turns"])
    assert talk.meta["replaced"].keys() >= {"above_below"}
    assert not {"above_below"} & (talk.meta.get("left_out", {}).keys() | asked.keys())
    assert sum(asked[kind] for kind in ("left_right", "front_behind", "larger_smaller")) == 4
    pairs = [(turn["kind"], frozenset(turn["objects"])) for turn in talk.meta["turns"] if "holds" in turn]
    assert len(set(pairs)) == len(pairs)
    assert check_conversation(talk.messages, talk.meta) == []
    # a view with edges where nothing else can be asked of the level
    smooth = build_conversation(tiny_cues(boxes={}), seed=0, plan=TurnPlan({"depth": 2, "closer": 2}))
    assert smooth.meta["replaced"] == {"closer": ["depth", "depth"]}
    assert "left_out" not in smooth.meta


def test_a_question_on_a_caption_goes_with_the_caption():
    talk = build_conversation(tiny_cues(boxes={}), seed=0)
    assert [turn["kind"] for turn in talk.meta["turns"]] == ["depth"] * 5  # no edges, so no pairs of points
    assert talk.meta["left_out"]["caption"] == "0 usable objects, but the question needs 1"
    assert talk.meta["left_out"]["caption_question"] == "it refers to a turn of caption, which could not be asked"
    assert len(talk.meta["left_out"]) == 7


def test_nothing_is_said_of_left_out_turns_where_there_are_none():
    assert "left_out" not in build_conversation(tiny_cues(), seed=0).meta


def test_the_plan_says_how_few_turns_will_do():
    view = tiny_cues(boxes={"red box": BOXES["red box"]})
    assert len(build_conversation(view, seed=0, plan=TurnPlan(least=6)).meta["turns"]) == 6
    with pytest.raises(
        CuesError, match=r"hand-made: 6 of 12 turns can be asked, expected at least 7 \(left_right: 1 us"
    ):
        build_conversation(view, seed=0, plan=TurnPlan(least=7))
    with pytest.raises(CuesError, match=r"^hand-made: 0 usable objects, but the question needs 2$"):
        build_conversation(tiny_cues(boxes={}), seed=0, plan=TurnPlan({"left_right": 1, "distance": 1}))
