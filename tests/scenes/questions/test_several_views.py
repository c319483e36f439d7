"""Conversations about a scene of several views."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from spatialboost.scenes.questions.checker import check_against_cues, check_conversation
from spatialboost.scenes.questions.conversation import build_conversation
from spatialboost.scenes.questions.kinds import KINDS
from spatialboost.scenes.questions.meta import facts_of_views
from spatialboost.scenes.questions.plan import TurnPlan
from spatialboost.scenes.scene import Scene
from tiny_cues import tiny_cues, tiny_scene


def test_a_scene_of_one_view_is_the_view():
    view = tiny_cues()
    assert build_conversation(Scene([view]), seed=6) == build_conversation(view, seed=6)


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
def test_every_question_names_its_view_and_every_answer_is_right(order):
    scene = tiny_scene()
    for seed in range(20):
        talk = build_conversation(scene, seed=seed, order=order)
        assert talk.messages[0]["content"].startswith("<image>\n<image>\n<image>\nIn image ")
        assert sum(message["content"].count("<image>") for message in talk.messages) == 3
        for turn, question in zip(talk.meta["turns"], talk.messages[::2], strict=True):
            named = re.match(r"(?:<image>\n)*In image (\d), [a-z]", question["content"])
            assert int(named[1]) == turn["view"] + 1
        assert check_conversation(talk.messages, talk.meta) == []
        assert check_against_cues(talk.messages, talk.meta, scene) == []


def test_the_meta_holds_the_facts_of_each_view():
    scene = tiny_scene()
    meta = build_conversation(scene, seed=0).meta
    assert json.loads(json.dumps(meta)) == meta
    assert (meta["version"], meta["images"], meta["source"]) == (2, 3, "hand-made 1")
    assert [facts["source"] for facts in facts_of_views(meta)] == ["hand-made 1", "hand-made 2", "hand-made 3"]
    assert [tuple(facts["size"]) for facts in meta["views"]] == [view.size for view in scene.views]
    assert [facts["depth_noise"] for facts in meta["views"]] == [0.0, 0.01, 0.02]
    for facts, pose, view in zip(meta["views"], scene.poses, scene.views, strict=True):
        np.testing.assert_allclose(facts["pose"], pose)
        np.testing.assert_allclose(facts["intrinsics"], view.intrinsics_33)
        assert len(facts["objects"]) == len(view.objects)
    # 10 cm to the right of the first view
    np.testing.assert_allclose(np.array(meta["views"][1]["pose"])[:3, 3], np.array(scene.poses[1])[:3, 3])
    assert meta["views"][0]["pose"] == np.eye(4).tolist()


def test_views_are_drawn_alike_and_a_caption_question_stays_with_its_caption():
    drawn = Counter()
    for seed in range(60):
        turns = build_conversation(tiny_scene(), seed=seed).meta["turns"]
        drawn.update(turn["view"] for turn in turns if turn["kind"] == "depth")
        assert turns[-1]["view"] == turns[-2]["view"]
    assert set(drawn) == {0, 1, 2}
    assert min(drawn.values()) > 35  # of 180 questions


def test_a_question_that_one_view_does_not_support_is_asked_of_another():
    first, second, third = tiny_scene().views
    bare = replace(first, objects=())
    for seed in range(10):
        talk = build_conversation(Scene([bare, second, third]), seed=seed)
        assert "left_out" not in talk.meta
        views = {turn["view"] for turn in talk.meta["turns"] if KINDS[turn["kind"]].objects}
        assert 0 not in views
    nothing = build_conversation(Scene([bare, replace(second, objects=()), replace(third, objects=())]), seed=0)
    assert nothing.meta["left_out"]["distance"] == "0 usable objects, but the question needs 2"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda meta: meta["turns"][0].update(view=(meta["turns"][0]["view"] + 1) % 3), "does not name image"),
        (lambda meta: meta["turns"][0].update(view=7), "does not name image"),
        (lambda meta: meta["turns"][0].pop("view"), "not in the expected form"),
        (lambda meta: meta["views"].pop(), "the facts of 2 views, but its image count is 3"),
        (lambda meta: meta.update(images=2), "the facts of 3 views, but its image count is 2"),
        (lambda meta: meta["turns"][-1].update(objects=[0]), "other objects than the turn of caption"),
        (lambda meta: meta["turns"].insert(0, meta["turns"].pop()), "the caption is not last"),
    ],
)
def test_what_is_wrong_with_the_views_is_caught(change, problem):
    talk = build_conversation(tiny_scene(), seed=3)
    meta = copy.deepcopy(talk.meta)
    change(meta)
    assert any(problem in found for found in check_conversation(talk.messages, meta))


def test_facts_of_each_view_are_verified_from_the_scene_itself():
    scene = tiny_scene()
    talk = build_conversation(scene, seed=3)

    def problems(views) -> str:
        return " | ".join(check_against_cues(talk.messages, talk.meta, Scene(views)))

    first, second, third = scene.views
    assert "meta has 3 views, but the scene has 2" in problems([first, second])
    assert "image 3: the scene's box" in problems([first, second, replace(third, depth_HW=third.depth_HW + 0.1)])
    assert "image 2: the image size in meta is (90, 60)" in problems([first, third, second])
    moved = second.pose_44 + np.array([[0, 0, 0, 0.5], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert "image 2: the pose in meta is not the pose of the view" in problems(
        [first, replace(second, pose_44=moved), third]
    )


def test_a_plan_of_points_needs_no_objects_in_any_view():
    scene = Scene([replace(view, objects=()) for view in tiny_scene().views])
    talk = build_conversation(scene, seed=0, plan=TurnPlan({"depth": 2, "closer": 2}))
    assert len(talk.meta["turns"]) == 4
    assert check_against_cues(talk.messages, talk.meta, scene) == []
