"""Every kind has at least eight wordings; the checks understand all of them without their table."""

from __future__ import annotations

import math
import re

import pytest

from spatialboost.scenes.focal import unify_focal
from spatialboost.scenes.questions import wordings
from spatialboost.scenes.questions.checker import check_against_cues, check_conversation
from spatialboost.scenes.questions.conversation import build_conversation
from spatialboost.scenes.questions.kinds import KINDS
from spatialboost.scenes.questions.plan import PAPER, TurnPlan, renew_settings
from spatialboost.scenes.rooms import Rooms
from spatialboost.scenes.scene import Scene
from tiny_cues import tiny_cues

TABLES = {name: KINDS[name].wordings for name in PAPER if name != "caption_question"}
TABLES |= {f"caption_question {asked}": table for asked, table in wordings.CAPTION_QUESTION.items()}


@pytest.mark.parametrize("name", TABLES)
def test_there_are_eight_and_no_two_are_alike(name):
    assert len(set(TABLES[name])) == len(TABLES[name]) >= 8
    fields = {tuple(sorted(re.findall(r"{(\w+)}", wording))) for wording in TABLES[name]}
    assert len(fields) == 1


def test_every_wording_is_used_and_passes_the_check():
    used: dict[str, set[int]] = {}
    for seed in range(160):
        talk = build_conversation(tiny_cues(), seed=seed)
        assert check_conversation(talk.messages, talk.meta) == []
        for turn in talk.meta["turns"]:
            key = f"{turn['kind']} {turn['asked']}" if turn["kind"] == "caption_question" else turn["kind"]
            used.setdefault(key, set()).add(turn["template"])
    for name in set(TABLES) - {key for key in TABLES if " " in key}:
        assert used[name] == set(range(len(TABLES[name])))


def test_questions_about_metres_say_the_field_of_view():
    plan, used, cues = TurnPlan({**PAPER, "vqa": 3}, field_of_view=True), set(), tiny_cues()
    angle = 2 * math.degrees(math.atan(cues.size[1] / 2 / cues.intrinsics_33[0, 0]))
    for seed in range(24):
        talk = build_conversation(cues, seed=seed, plan=plan)
        assert check_conversation(talk.messages, talk.meta) == []
        for turn, question, answer in zip(talk.meta["turns"], talk.messages[::2], talk.messages[1::2], strict=True):
            said = f"{angle:.1f} degrees" in question["content"]
            assert said == ("fields_of_view" in turn) == ("meters" in answer["content"])
            used |= {
                text for text in wordings.FIELD_OF_VIEW if text.format(angle=f"{angle:.1f} degrees") in str(question)
            }
    assert used == set(wordings.FIELD_OF_VIEW)
    assert "degrees" not in str(build_conversation(cues, seed=0).messages)


def test_a_wrong_field_of_view_is_found():
    talk = build_conversation(tiny_cues(), seed=0, plan=TurnPlan({"depth": 1}, field_of_view=True))
    question = talk.messages[0]["content"]
    for wrong in (re.sub(r"\d+\.\d degrees", "20.0 degrees", question), re.sub(r"\d+\.\d degrees", "wide", question)):
        messages = [{**talk.messages[0], "content": wrong}, talk.messages[1]]
        assert "does not say the fields of view" in check_conversation(messages, talk.meta)[0]


def test_views_with_different_fields_of_view_are_all_named():
    near, far = Rooms(1, size=64, views=2)[0].views
    scene = Scene((near, unify_focal(far, 1.4 * far.intrinsics_33[0, 0] / 64)))
    plan = TurnPlan({"depth": 2, "distance": 1, "camera_translation": 1, "distance_across": 1}, field_of_view=True)
    text = ""
    for seed in range(12):
        talk = build_conversation(scene, seed=seed, plan=plan)
        assert check_against_cues(talk.messages, talk.meta, scene) == []
        text += str(talk.messages)
    assert re.search(r"degrees in image 1 and \d+\.\d degrees in image 2", text)


def test_a_plan_limits_the_wordings():
    for seed in range(20):
        turns = build_conversation(tiny_cues(), seed=seed, plan=TurnPlan(wordings=2)).meta["turns"]
        assert {turn["template"] for turn in turns} <= {0, 1}


def test_older_data_sets_have_two():
    found = {"turns": {"depth": 1}, "min_gap": 0.05, "smoothness": 0.03, "on_objects": 0.5, "least": 1}
    assert renew_settings(found)["wordings"] == 2
    assert renew_settings({**found, "wordings": None})["wordings"] is None


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("left_right", (r"\b(Is|Does|Can|Would)\b", r"\1 it not the case:")),
        ("depth", (r"dept\w*|deep", "colour")),
        ("closer", (r"\b(closer?|nearer)\b", "farther away")),
        ("distance", (r"\b(?i:how far)\b|distance", "how large")),
        ("caption_question", (r"\bor\b", "and")),
    ],
)
def test_a_question_that_asks_something_else_is_caught(kind, change):
    changed = 0
    for seed in range(12):
        talk = build_conversation(tiny_cues(), seed=seed)
        for number, turn in enumerate(talk.meta["turns"]):
            text = talk.messages[2 * number]["content"]
            if turn["kind"] == kind and re.sub(*change, text) != text:
                changed += 1
                messages = [dict(message) for message in talk.messages]
                messages[2 * number]["content"] = re.sub(*change, text)
                assert check_conversation(messages, talk.meta), messages[2 * number]["content"]
    assert changed
