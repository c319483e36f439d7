from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spatialboost.scenes.cues import Cues, CuesError
from spatialboost.scenes.extract.gravity import find_up, find_up_of_walk, up_in_camera
from spatialboost.scenes.extract.pipeline import Extracted
from spatialboost.scenes.extract.registry import open_extractor
from spatialboost.scenes.readers.rgbd import RGBDFolder
from spatialboost.scenes.rooms.render import look, render_rooms, render_scenes, render_views, sample_room
from tiny_cues import tiny_cues

DOWN_3 = np.array([0.0, 1.0, 0.0])  # of the rooms' world
ASSETS = Path(os.environ.get("SPATIALBOOST_ASSETS", "/nowhere"))


def degrees(a, b) -> float:
    return float(np.degrees(np.arccos(np.clip(np.dot(a, b), -1, 1))))


def test_rooms_know_which_way_is_up():
    for scene in render_scenes([3, 4], views=2, size=24):
        for view in scene.views:
            np.testing.assert_allclose(view.pose_44[:3, :3] @ view.up_3, -DOWN_3, atol=1e-12)


def test_the_floor_of_single_views_tells_it():
    found = []
    for view in render_rooms(range(500, 540), size=64):
        up_3 = find_up([replace(view, pose_44=None)])
        if up_3 is not None:
            found.append(degrees(up_3, view.up_3))
    assert len(found) > 20
    assert np.median(found) < 1
    assert max(found) < 8


def test_a_walk_tells_it_in_a_tilted_world():
    room = sample_room(3)
    poses = [look((0.1 * i, -1.4, -1.0), yaw=0.3 * i - 0.5, pitch=0.3) for i in range(5)]
    turn_44 = look((1.0, 2.0, 3.0), yaw=0.7, pitch=1.2, roll=0.4)  # the world of another tracker
    frames = [replace(view, pose_44=turn_44 @ view.pose_44, up_3=None) for view in render_views(room, poses, size=64)]
    up_3 = find_up_of_walk(frames.__getitem__, len(frames))
    assert degrees(up_3, turn_44[:3, :3] @ -DOWN_3) < 2
    for frame, pose in zip(frames, poses, strict=True):
        assert degrees(up_in_camera(up_3, frame.pose_44), pose[:3, :3].T @ -DOWN_3) < 2


def test_where_no_floor_is_clear_nothing_is_said():
    wall = tiny_cues(boxes={})
    flat = Cues(wall.image_HW3, np.full(wall.size, 2.0, np.float32), wall.intrinsics_33, "wall")
    assert find_up([flat]) is None
    view = render_rooms([500], size=64)[0]
    upside = replace(view, pose_44=view.pose_44 @ np.diag([-1.0, -1, 1, 1]))
    assert find_up([view, upside]) is None  # the cameras do not agree


def test_the_extractor_keeps_what_is_known():
    views = render_rooms(range(500, 504), size=64)
    bare = [replace(view, up_3=None) for view in views]
    for given, view, found in zip(bare, views, Extracted(bare, [open_extractor("gravity")]), strict=True):
        assert given.up_3 is None
        assert found.up_3 is None or degrees(found.up_3, view.up_3) < 8
    kept = Extracted(views, [open_extractor("gravity")])
    assert all((view.up_3 == found.up_3).all() for view, found in zip(views, kept, strict=True))


@pytest.mark.parametrize("wrong", [[0, -1], [0, -2, 0], [0, np.nan, 0]])
def test_a_wrong_direction_names_the_view(wrong):
    with pytest.raises(CuesError, match=r"hand-made: up_3 is .*, expected three numbers of length 1 together"):
        replace(tiny_cues(), up_3=np.array(wrong, float))


@pytest.mark.skipif(not (ASSETS / "rgbd_room").is_dir(), reason="needs SPATIALBOOST_ASSETS with rgbd_room")
def test_the_frames_of_a_real_walk_know_it():
    frames = RGBDFolder(ASSETS / "rgbd_room", size=120)
    for index in (0, 100, 372):
        world_3 = frames[index].pose_44[:3, :3] @ frames[index].up_3
        assert degrees(world_3, [0, 1, 0]) < 1  # the y axis of this tracker
