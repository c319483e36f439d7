from __future__ import annotations

import json
import re
from collections import Counter

import numpy as np
import pytest

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import Cues, CuesError, SceneObject
from spatialboost.scenes.questions.conversation import build_conversation
from spatialboost.scenes.questions.kinds import KINDS, LEVELS
from spatialboost.scenes.questions.layout import RELATIONS, clean_description, measure_layout
from spatialboost.scenes.questions.phrases import format_length, format_list
from spatialboost.scenes.questions.plan import TurnPlan
from spatialboost.scenes.questions.view import AskedView
from tiny_cues import BOXES, tiny_cues

PIXELS_ONLY = TurnPlan({"depth": 4, "closer": 3})
ALL_TWELVE = TurnPlan(least=12)


def kinds(talk) -> list[str]:
    return [turn["kind"] for turn in talk.meta["turns"]]


def test_twelve_turns_in_the_papers_order():
    talk = build_conversation(tiny_cues(), seed=3)
    assert kinds(talk)[:5] == ["depth"] * 3 + ["closer"] * 2
    assert kinds(talk)[5:9] == ["left_right", "above_below", "front_behind", "larger_smaller"]
    assert kinds(talk)[9:] == ["distance", "caption", "caption_question"]
    assert [message["role"] for message in talk.messages] == ["user", "assistant"] * 12
    assert talk.messages[0]["content"].startswith("<image>\n")
    assert sum("<image>" in message["content"] for message in talk.messages) == 1
    assert json.loads(json.dumps(talk.meta)) == talk.meta


def test_orders_ask_the_same_questions():
    talks = {order: build_conversation(tiny_cues(), seed=8, order=order) for order in ("forward", "reverse", "random")}
    answers = {order: Counter(m["content"] for m in talk.messages[1::2]) for order, talk in talks.items()}
    assert answers["forward"] == answers["reverse"] == answers["random"]
    assert [LEVELS.index(KINDS[kind].level) for kind in kinds(talks["reverse"])] == [2, 1, 1, 1, 1, 0, 0, 0, 0, 0, 3, 3]
    assert kinds(talks["random"]) != kinds(talks["forward"])
    assert kinds(talks["random"])[-2:] == ["caption", "caption_question"]


def test_same_seed_same_conversation_other_seed_another():
    first, again, other = (build_conversation(tiny_cues(), seed=seed) for seed in (5, 5, 6))
    assert (first.messages, first.meta) == (again.messages, again.meta)
    assert first.messages != other.messages


def test_yes_is_right_half_of_the_time_for_every_kind():
    yes, total, views = Counter(), 300, tiny_cues()
    for seed in range(total):
        for turn in build_conversation(views, seed=seed).meta["turns"]:
            if turn["kind"] in RELATIONS:
                yes[turn["kind"]] += turn["verdict"]
            elif turn["kind"] == "closer":
                yes["closer"] += (turn["verdict"] == 1) / 2
    # four standard deviations for a fair coin
    assert set(yes) == {*RELATIONS, "closer"}
    assert all(abs(count / total - 0.5) < 4 * 0.5 / total**0.5 for count in yes.values()), yes


def test_coordinates_do_not_tell_which_point_is_closer():
    lower_is_closer = []
    for seed in range(200):
        for turn in build_conversation(tiny_cues(), seed=seed, plan=PIXELS_ONLY).meta["turns"][4:]:
            (_, y1), (_, y2) = turn["points"]
            lower_is_closer.append((y1 > y2) == (turn["verdict"] == 1))
    assert abs(np.mean(lower_is_closer) - 0.5) < 4 * 0.5 / len(lower_is_closer) ** 0.5


def test_yes_does_not_follow_from_the_word_asked():
    asked = Counter()
    for seed in range(300):
        turn = build_conversation(tiny_cues(), seed=seed).meta["turns"][5]
        asked[turn["asked"], turn["verdict"]] += 1
    assert len(asked) == 4
    assert min(asked.values()) > 45


def test_the_named_coordinate_is_the_pixel_asked():
    for size in [(96, 128), (53, 71), (224, 224), (360, 540)]:
        cues = tiny_cues(size)
        for seed in range(20):
            talk = build_conversation(cues, seed=seed, plan=PIXELS_ONLY)
            for question, turn in zip(talk.messages[::2], talk.meta["turns"], strict=True):
                named = re.findall(r"\((0\.\d\d), (0\.\d\d)\)", question["content"])
                assert len(named) == len(turn["pixels"])
                for (x, y), (row, column), depth in zip(named, turn["pixels"], turn["depths"], strict=True):
                    assert (row, column) == (int(y[2:]) * size[0] // 100, int(x[2:]) * size[1] // 100)
                    assert cues.depth_HW[row, column] == pytest.approx(depth, abs=1e-6)


def test_points_keep_off_edges_and_holes():
    cues = tiny_cues((200, 200), holes=True)
    for seed in range(40):
        for turn in build_conversation(cues, seed=seed, plan=PIXELS_ONLY).meta["turns"]:
            for (row, column), depth in zip(turn["pixels"], turn["depths"], strict=True):
                around = cues.depth_HW[row - 1 : row + 2, column - 1 : column + 2]
                assert np.isfinite(around).all()
                assert (around > 0).all()
                assert np.abs(around - depth).max() < 0.031 * depth


def test_points_spread_over_the_image_and_onto_objects():
    cues, hits, points = tiny_cues(), Counter(), []
    for seed in range(100):
        for turn in build_conversation(cues, seed=seed, plan=PIXELS_ONLY).meta["turns"]:
            points += turn["points"]
            for row, column in turn["pixels"]:
                hits.update(o.description for o in cues.objects if o.mask_HW[row, column])
    assert set(hits) == set(BOXES)
    assert min(hits.values()) > 20  # the book covers 2 % of the image
    assert sum(hits.values()) < 0.75 * len(points)  # and many points are not on any object
    assert np.ptp(points, axis=0).min() > 0.9


def test_pairs_within_the_noise_are_not_asked():
    noisy = tiny_cues(noise=0.08)
    for seed in range(40):
        for turn in build_conversation(noisy, seed=seed, plan=PIXELS_ONLY).meta["turns"]:
            if turn["kind"] == "closer":
                first, second = turn["depths"]
                assert abs(first - second) > 2 * 0.08 * np.hypot(first, second)
    with pytest.raises(CuesError, match="no pair of objects is clear enough to ask about in front of/behind"):
        build_conversation(tiny_cues(noise=0.6), seed=0, plan=TurnPlan({"front_behind": 1}))


def test_lengths_below_half_a_metre_are_in_centimetres():
    assert [format_length(metres) for metres in (0.0321, 0.4994, 0.4996, 2.3456, 12.0)] == [
        "3.2 centimeters",
        "49.9 centimeters",
        "0.500 meters",
        "2.346 meters",
        "12.000 meters",
    ]


def test_other_plans():
    talk = build_conversation(tiny_cues(boxes={"red box": BOXES["red box"]}), seed=0, plan=PIXELS_ONLY)
    assert kinds(talk) == ["depth"] * 4 + ["closer"] * 3
    talk = build_conversation(tiny_cues(), seed=0, plan=TurnPlan({"depth": 1, "front_behind": 3, "distance": 2}))
    assert kinds(talk) == ["depth", *["front_behind"] * 3, "distance", "distance"]
    with pytest.raises(SpatialBoostError, match=r"unknown kind of question 'abov_below'.*Did you mean 'above_below'"):
        TurnPlan({"abov_below": 1})
    with pytest.raises(SpatialBoostError, match="has no turn"):
        TurnPlan({"depth": 0})
    with pytest.raises(SpatialBoostError, match="expected 'forward', 'reverse' or 'random'"):
        build_conversation(tiny_cues(), seed=0, order="backward")


def test_views_that_cannot_support_the_turns_say_why():
    with pytest.raises(CuesError, match="1 usable objects, but the question needs 2"):
        build_conversation(tiny_cues(boxes={"red box": BOXES["red box"]}), seed=0, plan=ALL_TWELVE)
    view = tiny_cues()
    flat = Cues(view.image_HW3, np.full(view.size, 2.0, np.float32), view.intrinsics_33, "flat")
    with pytest.raises(CuesError, match="no two points differ in depth"):
        build_conversation(flat, seed=0, plan=TurnPlan({"closer": 3}, wordings=2))
    with pytest.raises(CuesError, match="no point has one partner in front of it and one behind it"):
        build_conversation(flat, seed=0, plan=TurnPlan({"closer": 3}))
    rough = tiny_cues((200, 200))
    rough.depth_HW[::2] *= 1.5
    with pytest.raises(CuesError, match="no point has a steady depth"):
        build_conversation(rough, seed=0, plan=PIXELS_ONLY)
    same_height = {"red box": (0.4, 0.6, 0.1, 0.3, 1.0), "blue box": (0.4, 0.6, 0.6, 0.8, 1.0)}
    with pytest.raises(CuesError, match="no pair of objects is clear enough to ask about above/below"):
        build_conversation(tiny_cues(boxes=same_height), seed=0, plan=ALL_TWELVE)


def test_size_of_a_cut_object_is_not_asked_where_it_may_be_larger_than_seen():
    plan = TurnPlan({"larger_smaller": 1})
    whole = {"red box": (0.2, 0.8, 0.4, 0.9, 2.0), "blue box": (0.4, 0.6, 0.1, 0.2, 2.0)}
    assert build_conversation(tiny_cues(boxes=whole), seed=0, plan=plan).meta["turns"][0]["kind"] == "larger_smaller"
    with pytest.raises(CuesError, match="clear enough to ask about larger/smaller"):
        build_conversation(tiny_cues(boxes={**whole, "blue box": (0.4, 0.6, 0.0, 0.1, 2.0)}), seed=0, plan=plan)


def test_descriptions_that_would_break_the_text_are_left_out():
    view = tiny_cues()
    masks = [thing.mask_HW for thing in view.objects]
    names = ["the  red\nbox.", "<image> ball", "twin", "twin"]
    objects = [SceneObject(name, mask) for name, mask in zip(names, masks, strict=True)]
    odd = Cues(view.image_HW3, view.depth_HW, view.intrinsics_33, "odd", objects)
    assert [fact.description for fact in measure_layout(odd).objects] == ["red box"]
    assert [clean_description(text) for text in ("A man", "a", "<|im_end|>", "android")] == ["man", "", "", "android"]
    assert format_list(["lamp"]) == "a lamp"


def test_cubes_are_what_the_boxes_measure():
    view = tiny_cues((192, 256))
    layout = measure_layout(view)
    ball = next(fact for fact in layout.objects if fact.description == "blue ball")
    xmin, ymin, zmin, xmax, ymax, zmax = ball.extent_m
    # 0.40-0.52 of the width at 2 m and a focal length of one image width: -0.2 m to 0.04 m, minus 2 % on both sides
    assert (xmin, xmax) == (pytest.approx(-0.2, abs=0.01), pytest.approx(0.04, abs=0.01))
    assert (ymin, ymax) == (pytest.approx(0.075, abs=0.01), pytest.approx(0.3, abs=0.01))
    assert (zmin, zmax) == (pytest.approx(2.02, abs=0.01), pytest.approx(2.025, abs=0.01))
    box = np.reshape(layout.box_m, (2, 3))
    expected = (np.reshape(ball.extent_m, (2, 3)) - box[0]) / (box[1] - box[0])
    np.testing.assert_allclose(ball.cube, expected.ravel(), atol=1e-5)


def test_the_partners_of_a_point_lie_beside_each_other_and_both_answers_occur():
    """The same two regions of the image give both answers, so that the coordinates do not tell."""
    view = tiny_cues()
    picker = AskedView(view, measure_layout(view), TurnPlan()).picker
    closer = []
    for seed in range(300):
        first, second = picker.pick_matched_pair(np.random.default_rng(seed))
        again = {picker.pick_matched_pair(np.random.default_rng(seed)) for _ in range(2)}
        assert again == {(first, second)}
        closer.append(picker.depth_at(second) < picker.depth_at(first))
    assert abs(np.mean(closer) - 0.5) < 4 * 0.5 / len(closer) ** 0.5


def test_a_caption_does_not_answer_the_question_about_it():
    asked = Counter()
    for seed in range(120):
        *_, caption, question = build_conversation(tiny_cues(), seed=seed).meta["turns"]
        asked[question["asked"]] += 1
        assert question["kind"] == "caption_question"
        assert set(question["pair"]) <= set(caption["objects"])
        if question["asked"] in ("closer", "farther"):
            assert caption["closest"] not in question["pair"]
    assert set(asked) >= {"closer", "farther", "higher", "lower"}
