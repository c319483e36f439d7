from __future__ import annotations

import numpy as np
import pytest

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.camera import project, unproject
from spatialboost.scenes.rooms import Rooms, render_views, sample_room
from spatialboost.scenes.rooms.viewpoints import sample_poses
from spatialboost.scenes.views.mix import ViewMix


def test_rooms_are_the_same_however_they_are_asked_for():
    rooms = Rooms(40, size=32)
    late = rooms[37]
    np.testing.assert_array_equal(Rooms(4, first=36, size=32)[1].image_HW3, late.image_HW3)
    assert late.source == "synthetic:37"
    with pytest.raises(IndexError):
        rooms[40]
    with pytest.raises(SpatialBoostError, match="at least one room"):
        Rooms(0)
    with pytest.raises(SpatialBoostError, match="views is 0; expected at least 1"):
        Rooms(2, views=0)


def test_the_first_of_several_views_is_the_view_of_a_room():
    alone, scene = Rooms(5, size=32)[4], Rooms(5, size=32, views=3)[4]
    assert [view.source for view in scene.views] == ["synthetic:4", "synthetic:4/view1", "synthetic:4/view2"]
    np.testing.assert_array_equal(scene.views[0].image_HW3, alone.image_HW3)
    np.testing.assert_array_equal(scene.views[0].depth_HW, alone.depth_HW)
    two = Rooms(1, first=4, size=32, views=2)[0]  # the ends of the same path
    np.testing.assert_array_equal(two.views[1].depth_HW, scene.views[2].depth_HW)


def test_views_of_a_room_see_much_of_the_same():
    shares = []
    for scene in Rooms(24, size=48, views=3):
        first, *others = scene.views
        points = unproject(first.depth_HW, first.intrinsics_33).reshape(-1, 3)
        for view, pose in zip(others, scene.poses[1:], strict=True):
            assert 0.05 < np.linalg.norm(pose[:3, 3]) < 1.5, scene.source
            seen = (points - pose[:3, 3]) @ pose[:3, :3]
            pixels = np.round(project(seen, view.intrinsics_33))
            inside = ((pixels >= 0) & (pixels < view.size[::-1])).all(-1)
            column, row = pixels[inside].astype(int).T
            same = np.abs(view.depth_HW[row, column] / seen[inside, 2] - 1) < 0.05
            shares.append(same.sum() / len(points))
    assert min(shares) > 0.15
    assert np.mean(shares) > 0.5


def test_things_keep_their_descriptions_from_view_to_view():
    for scene in Rooms(8, size=48, views=2):
        known = [{thing.description for thing in view.objects} for view in scene.views]
        assert known[0] & known[1]


def test_cameras_stand_free_in_their_room():
    for seed in range(60):
        room = sample_room(seed)
        poses = sample_poses(room, 3)
        assert len(render_views(room, poses, size=8)) == 3  # raises if a camera is outside of the room
        for pose in poses[1:]:
            np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-9)
            for thing in room.things:  # no camera inside a thing: farther away than half of its diagonal, or above it
                beside = np.hypot(*(pose[:3, 3] - thing.centre)[[0, 2]]) - np.hypot(thing.half[0], thing.half[2])
                above = abs(pose[1, 3] - thing.centre[1]) - thing.half[1]
                assert max(beside, above) > 0.1 or thing.place == "wall", (seed, thing.description)


def test_paths_go_each_way_and_turn_each_way_equally_often():
    steps, turns = [], []
    for seed in range(300):
        first, last = sample_poses(sample_room(seed), 2)
        move = np.linalg.inv(first) @ last
        steps.append(move[:3, 3])
        turns.append(np.arctan2(move[0, 2], move[2, 2]))
    steps, turns = np.array(steps), np.array(turns)
    axis = np.abs(steps).argmax(1)
    for number in range(3):
        towards = steps[axis == number, number] > 0
        assert len(towards) > 50
        assert abs(towards.mean() - 0.5) < 2.6 * 0.5 / len(towards) ** 0.5  # 99 %
    aside = axis == 0
    assert abs(np.corrcoef(steps[aside, 0] > 0, turns[aside] > 0)[0, 1]) < 0.22  # the turn tells nothing of the step


def test_the_number_of_cameras_may_be_drawn_for_each_room():
    mix = ViewMix.parse("1:1,2:2,4:1")
    rooms = Rooms(40, size=16, views=mix)
    counts = [len(scene.views) for scene in rooms]
    assert set(counts) == {1, 2, 4}
    assert [len(Rooms(9, first=30, size=16, views=mix)[i].views) for i in range(9)] == counts[30:39]
    assert rooms.name == "rooms 0-39 16 px paths of 1:1,2:2,4:1 views"
    with pytest.raises(SpatialBoostError, match="there are 8 views in each item"):
        Rooms(2, size=4000, views=ViewMix.parse("mix"))


def test_two_pictures_of_one_camera_have_not_the_same_noise():
    room = sample_room(3)
    first, second = render_views(room, [room.pose_44] * 2, size=32)
    np.testing.assert_array_equal(first.depth_HW, second.depth_HW)
    assert room.noise > 0
    assert not np.array_equal(first.image_HW3, second.image_HW3)
