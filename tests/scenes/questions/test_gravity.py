"""Above and below are along gravity where it is known; elsewhere every plausible direction up must agree."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest

from spatialboost.scenes.camera import unproject
from spatialboost.scenes.questions.checker import check_against_cues, check_conversation
from spatialboost.scenes.questions.conversation import build_conversation
from spatialboost.scenes.questions.layout import compare_objects, measure_layout
from spatialboost.scenes.questions.plan import TurnPlan
from spatialboost.scenes.rooms.render import look, render_views, sample_room
from spatialboost.scenes.scene import Scene
from tiny_cues import tiny_cues

HEIGHTS = TurnPlan({"above_below": 4})


@pytest.fixture(scope="module")
def steep():
    """Views of a camera that looks down: what is far away is high in the image, also on the floor."""
    poses = [look((0.3, -1.9, -1.6), yaw=0.1 * i, pitch=0.75, roll=0.2) for i in range(3)]
    return [view for seed in range(8) for view in render_views(sample_room(seed), poses, size=64)]


def heights(view) -> dict[str, float]:
    points_HW3 = unproject(view.depth_HW, view.intrinsics_33) @ view.pose_44[:3, :3].T
    return {o.description: float(np.percentile(-points_HW3[o.mask_HW, 1], [2, 98]).mean()) for o in view.objects}


def test_a_camera_that_looks_down_does_not_turn_above_into_below(steep):
    asked = wrong_before = 0
    for view in steep:
        true, layout = heights(view), measure_layout(view)
        for a in layout.objects:
            for b in layout.objects:
                higher = true[a.description] > true[b.description]
                if compare_objects("above_below", a, b, layout.box_m, 0.0):
                    asked += 1
                    assert (compare_objects("above_below", a, b, layout.box_m, 0.0) == 1) == higher
                gap = a.extent_m[1] + a.extent_m[4] - b.extent_m[1] - b.extent_m[4]
                wrong_before += a is not b and (gap < 0) != higher
    assert asked > 20
    assert wrong_before > 20  # by the camera's own vertical


def test_without_gravity_only_what_every_tilt_agrees_on_is_asked(steep):
    for view in steep:
        layout = measure_layout(replace(view, up_3=None))
        for a in layout.objects:
            for b in layout.objects:
                gap = np.subtract(a.extent_m, b.extent_m).reshape(2, 3).mean(0)
                if compare_objects("above_below", a, b, layout.box_m, 0.0) == 1:
                    assert -gap[1] > np.cos(np.radians(55)) * np.linalg.norm(gap)
    straight = {"red box": (0.1, 0.3, 0.4, 0.6, 2.0), "blue box": (0.7, 0.9, 0.4, 0.6, 2.1)}
    view = replace(tiny_cues(boxes=straight), up_3=None)
    talk = build_conversation(view, seed=0, plan=HEIGHTS)
    assert talk.meta["up"] is None
    assert check_against_cues(talk.messages, talk.meta, view) == []
    aside = {"red box": (0.1, 0.3, 0.1, 0.2, 2.0), "blue box": (0.4, 0.6, 0.8, 0.9, 2.1)}
    assert build_conversation(tiny_cues(boxes=aside), seed=0, plan=HEIGHTS).meta["turns"]
    with pytest.raises(Exception, match="no pair of objects is clear enough to ask about above/below"):
        build_conversation(replace(tiny_cues(boxes=aside), up_3=None), seed=0, plan=HEIGHTS)


def test_the_check_recomputes_gravity():
    view = tiny_cues()
    talk = build_conversation(view, seed=0, plan=HEIGHTS)
    assert talk.meta["up"] == [0.0, -1.0, 0.0]
    assert check_against_cues(talk.messages, talk.meta, view) == []

    def problems(change) -> str:
        meta = copy.deepcopy(talk.meta)
        change(meta)
        return " | ".join(check_conversation(talk.messages, meta) or check_against_cues(talk.messages, meta, view))

    def exchange(meta) -> None:
        a, b = (meta["objects"][i] for i in meta["turns"][0]["objects"])
        a["heights_m"], b["heights_m"] = b["heights_m"], a["heights_m"]

    assert "along gravity, the other object is the higher one" in problems(exchange)
    assert "the direction up is" in problems(lambda meta: meta.update(up=[0.0, -0.8, 0.6]))
    assert "not in the expected form" in problems(lambda meta: meta["objects"][0].pop("heights_m")) or all(
        0 not in turn["objects"] for turn in talk.meta["turns"]
    )
    higher = [{**thing, "heights_m": [h + 0.3 for h in thing["heights_m"]]} for thing in talk.meta["objects"]]
    assert "spans the heights" in problems(lambda meta: meta.update(objects=higher))
    sideways = replace(view, up_3=np.array([1.0, 0.0, 0.0]))
    assert any("the direction up is" in found for found in check_against_cues(talk.messages, talk.meta, sideways))


def test_data_sets_without_gravity_are_checked_as_before():
    talk = build_conversation(tiny_cues(), seed=0, plan=HEIGHTS)
    meta = copy.deepcopy(talk.meta)
    del meta["up"]
    for thing in meta["objects"]:
        del thing["heights_m"]
    assert check_conversation(talk.messages, meta) == []
    meta["up"] = None  # now it is unknown, and a tilt of the camera may change the answer
    assert any("gravity is unknown" in found for found in check_conversation(talk.messages, meta))


def test_each_view_of_a_scene_has_its_own_direction():
    poses = [look((0.0, -1.5, -1.5), yaw=0.0, pitch=0.1 + 0.3 * i) for i in range(2)]
    scene = Scene(render_views(sample_room(5), poses, size=64))
    talk = build_conversation(scene, seed=1)
    ups = [facts["up"] for facts in talk.meta["views"]]
    for up, view in zip(ups, scene.views, strict=True):
        np.testing.assert_allclose(up, view.up_3, atol=1e-6)
    assert check_against_cues(talk.messages, talk.meta, scene) == []
