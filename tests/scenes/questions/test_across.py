"""Questions that need several views, and what they rest on."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from spatialboost.scenes.questions.across import Seen, objects_in
from spatialboost.scenes.questions.checker import check_against_cues, check_conversation
from spatialboost.scenes.questions.conversation import build_conversation
from spatialboost.scenes.questions.kinds import KINDS, Context
from spatialboost.scenes.questions.kinds.camera import turns_of
from spatialboost.scenes.questions.layout import measure_layout
from spatialboost.scenes.questions.plan import SEVERAL, TurnPlan
from spatialboost.scenes.questions.view import AskedView
from spatialboost.scenes.rooms import Rooms
from spatialboost.scenes.rooms.render import look, render_views, sample_room
from spatialboost.scenes.scene import Scene
from spatialboost.scenes.views.mix import ViewMix
from tiny_cues import room_paths, tiny_cues, tiny_scene

ACROSS = [name for name, kind in KINDS.items() if kind.views > 1 and name != "scene_vqa"]  # test_vqa.py has it
PLAN = TurnPlan(dict.fromkeys(ACROSS, 1))


def context_of(scene: Scene) -> Context:
    views = tuple(AskedView(view, measure_layout(view), PLAN) for view in scene.views)
    return Context(views, scene.poses, {})


def anonymous(scene: Scene) -> Scene:
    """The same scene from a source that does not know which objects are the same."""
    views = []
    for number, view in enumerate(scene.views):
        things = [replace(thing, description=f"{thing.description} {number}", identity=None) for thing in view.objects]
        views.append(replace(view, objects=tuple(things), depth_noise=0.01))
    return Scene(views)


def test_every_answer_about_a_path_through_a_room_is_right():
    """Also where the source does not know which objects are the same."""
    asked = Counter()
    for seed, scene in enumerate(Rooms(18, size=72, views=ViewMix.parse("2:1,4:1,8:1"))):
        for found in (scene, anonymous(scene)):
            talk = build_conversation(found, seed=seed, plan=PLAN)
            assert check_against_cues(talk.messages, talk.meta, found) == []
            asked.update(turn["kind"] for turn in talk.meta["turns"])
    assert min(asked[name] for name in ACROSS) > 8, asked


def test_one_view_does_not_support_them_and_says_why():
    talk = build_conversation(tiny_cues(), seed=0, plan=TurnPlan({"depth": 1, **dict.fromkeys(ACROSS, 1)}))
    assert talk.meta["left_out"] == dict.fromkeys(ACROSS, "the scene has 1 views, but this question needs 2")


def test_the_plan_for_several_views_has_twelve_turns_and_half_of_them_need_several():
    plan = TurnPlan(SEVERAL)
    assert plan.total == 12
    assert sum(plan.turns[name] for name in ACROSS if name in plan.turns) == 6
    assert "camera_translation" not in plan.turns  # it would tell the direction
    talk = build_conversation(room_paths()[0], seed=0, plan=plan)
    assert len(talk.meta["turns"]) == 12
    assert [message["content"].count("<image>") for message in talk.messages] == [3, *[0] * 23]


@pytest.mark.parametrize(
    ("position", "yaw", "pitch", "roll", "direction", "rotation"),
    [
        ((0.5, 0, 0.1), 20, 0, 0, "to the right", "20 degrees to the right"),
        ((-0.5, 0.1, 0), 0, -10, 0, "to the left", "10 degrees up"),
        ((0, 0.4, 0), 0, 12, 0, "down", "12 degrees down"),
        ((0, -0.4, 0.1), -15, 0, 0, "up", "15 degrees to the left"),
        ((0.1, 0, 0.6), 0, 0, 8, "forwards", "8 degrees clockwise"),
        ((0, 0, -0.6), 0, 0, -8, "backwards", "8 degrees counterclockwise"),
    ],
)
def test_the_words_are_those_of_the_first_camera(position, yaw, pitch, roll, direction, rotation):
    first = look((1.0, -1.4, -1.0), yaw=0.7, pitch=0.0)
    second = first @ look(position, *np.radians([yaw, pitch, roll]))
    scene = Scene([replace(tiny_cues(), pose_44=pose) for pose in (first, second)])
    answers = {}
    for kind in ("camera_direction", "camera_rotation", "camera_translation"):
        talk = build_conversation(scene, seed=0, plan=TurnPlan({kind: 1}))
        answers[kind] = talk.messages[1]["content"]
        assert check_against_cues(talk.messages, talk.meta, scene) == []
    assert answers["camera_direction"] == f"The camera moved {direction}."
    turned = rotation.partition(" degrees ")[2]
    assert answers["camera_rotation"] == f"The camera turned {rotation}. Answer: {turned}."
    assert answers["camera_translation"].startswith("The camera moved ") and direction in answers["camera_translation"]


def test_a_camera_that_stays_or_moves_askew_is_not_asked_about():
    first = look((1.0, -1.4, -1.0), yaw=0.7, pitch=0.0)
    askew = first @ look((0.5, 0.0, 0.5), *np.radians([10, 9, 0]))
    plan = TurnPlan({"depth": 1, "camera_direction": 1, "camera_rotation": 1, "camera_translation": 1})
    left_out = {}
    for pose in (askew, first):
        scene = Scene([replace(tiny_cues(), pose_44=each) for each in (first, pose)])
        left_out |= build_conversation(scene, seed=0, plan=plan).meta["left_out"]
    assert left_out == {
        "camera_direction": "the camera did not clearly move along one direction",
        "camera_rotation": "the camera did not clearly turn in one direction",
        "camera_translation": "no further view was clearly taken at another place",
    }


def test_the_overlap_finds_the_same_objects_as_the_source_knows():
    """The third value of the overlap, "not clear", is rare."""
    agree = Counter()
    for scene in Rooms(24, size=96, views=2):
        known, guessed = context_of(scene), context_of(anonymous(scene))
        for a, b in zip(objects_in(known, 0), objects_in(guessed, 0), strict=True):
            for c, d in zip(objects_in(known, 1), objects_in(guessed, 1), strict=True):
                agree[a.same_as(c), b.same_as(d)] += 1
                assert a.knows(c) and not b.knows(d)
    assert agree[True, False] == agree[False, True] == 0
    assert agree[True, True] > 60 and agree[False, False] > 300
    assert agree[True, None] + agree[False, None] < 0.1 * agree.total()


def test_an_object_behind_another_one_is_neither_shown_nor_clearly_hidden():
    """A camera that is raised sees what the box hid before."""
    scene = room_paths()[1]
    context = context_of(scene)
    for view in range(3):
        for seen in objects_in(context, view):
            assert not seen.is_hidden_in(view)
            for other in range(3):
                shows = [thing.description for thing in scene.views[other].objects]
                assert not (seen.fact.description in shows and seen.is_hidden_in(other))


def test_verdicts_are_even_and_the_words_that_are_offered_do_not_tell():
    """For each set of offered answers, each answer is right half of the time; so a text-only reader learns nothing."""
    verdicts: dict[tuple, Counter] = defaultdict(Counter)
    scenes = list(Rooms(40, size=48, views=2))
    for round_ in range(12):
        for number, scene in enumerate(scenes):
            seed = 1000 * round_ + number
            talk = build_conversation(scene, seed=seed, plan=TurnPlan({**dict.fromkeys(ACROSS, 1), "depth": 1}))
            for turn, question in zip(talk.meta["turns"], talk.messages[::2], strict=True):
                if turn["kind"] == "which_view":
                    both = "both" in question["content"], "only in image 1" in question["content"]
                    verdicts[("which_view", *both)][turn["verdict"] == ([0, 1] if both[0] else [0])] += 1
                elif turn["kind"] in ("same_object", "closer_across"):
                    verdicts[(turn["kind"],)][bool(turn["verdict"])] += 1
    for key, counts in verdicts.items():
        if counts.total() > 60:
            assert abs(counts[True] / counts.total() - 0.5) < 2.6 * 0.5 / counts.total() ** 0.5, (key, counts)


@pytest.mark.parametrize("name", ACROSS)
def test_a_wrong_pose_or_a_wrong_object_is_caught(name):
    for scene in room_paths():
        talk = build_conversation(scene, seed=1, plan=TurnPlan({name: 1}))
        assert check_conversation(talk.messages, talk.meta) == []
        meta = copy.deepcopy(talk.meta)
        turn = meta["turns"][0]
        if "objects" in turn:
            where = turn.get("view_of_object", turn["images"][0])
            meta["views"][where]["objects"][turn["objects"][0]] |= {"description": "door", "aliases": []}
        else:
            meta["views"][turn["images"][1]]["pose"][0][3] += 0.5
            meta["views"][turn["images"][1]]["pose"][0][2] += 0.5
        assert check_conversation(talk.messages, meta)


def test_what_is_not_so_in_the_views_is_caught():
    """The meta agrees with the text, but the views do not."""
    for scene in room_paths():
        for seed in range(4):
            talk = build_conversation(scene, seed=seed, plan=TurnPlan({"same_object": 1}))
            turn = talk.meta["turns"][0]
            views = list(scene.views)
            other = views[turn["images"][1]]
            shifted = [thing.identity for thing in (*other.objects[1:], *other.objects[:1])]
            things = [replace(thing, identity=name) for thing, name in zip(other.objects, shifted, strict=True)]
            views[turn["images"][1]] = replace(other, objects=things)
            found = check_against_cues(talk.messages, talk.meta, Scene(views))
            assert any("when measured again" in problem for problem in found) == turn["verdict"] or found


def test_an_object_whose_names_say_where_it_is_has_no_plain_name():
    view = tiny_cues(boxes={"red box on the left": (0.1, 0.3, 0.1, 0.3, 1.2), "tall box": (0.4, 0.8, 0.1, 0.3, 1.2)})
    names = [Seen(context_of(Scene([view])), 0, number).plain_name for number in range(2)]
    assert names == [None, "tall box"]


def test_the_turns_of_a_camera_are_those_with_which_it_was_made():
    for yaw, pitch, roll in ((30, 0, 0), (0, -20, 0), (10, 5, 3), (-40, 20, -15)):
        pose = look((0, 0, 0), *np.radians([yaw, pitch, roll]))
        np.testing.assert_allclose(turns_of(pose), [yaw, -pitch, roll], atol=1e-9)


def test_real_frames_are_asked_about(assets):
    from spatialboost.scenes.extract.pipeline import Extracted
    from spatialboost.scenes.extract.registry import open_extractor
    from spatialboost.scenes.readers.rgbd import RGBDFolder
    from spatialboost.scenes.views.choosing import ChosenViews

    frames = RGBDFolder(assets / "rgbd_room", size=160)
    scenes = Extracted(ChosenViews(frames, views=ViewMix.parse("2:1,4:1")), [open_extractor("superpixels")])
    asked = Counter()
    for index in (20, 90, 200, 260, 330):
        talk = build_conversation(scenes[index], seed=index, plan=TurnPlan({**SEVERAL, "camera_translation": 1}))
        assert check_against_cues(talk.messages, talk.meta, scenes[index]) == []
        asked.update(turn["kind"] for turn in talk.meta["turns"])
    assert asked["camera_translation"] == 5


def test_views_of_a_scene_without_paths_stay_right():
    scene = tiny_scene()
    talk = build_conversation(scene, seed=0, plan=TurnPlan({"depth": 1, "camera_direction": 1, "distance_across": 1}))
    assert check_against_cues(talk.messages, talk.meta, scene) == []
    assert render_views(sample_room(0), [sample_room(0).pose_44], size=8)[0].objects[0].identity is not None
