from __future__ import annotations

import numpy as np
import pytest

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.camera import project, unproject
from spatialboost.scenes.rooms import Rooms, render_views, sample_room
from spatialboost.scenes.rooms.viewpoints import sample_poses


def test_rooms_are_the_same_however_they_are_asked_for():
    rooms = Rooms(40, size=32)
    late = rooms[37]
    np.testing.assert_array_equal(Rooms(4, first=36, size=32)[1].image_HW3, late.image_HW3)
    assert late.source == "synthetic:37"
    with pytest.raises(IndexError):
        rooms[40]
    with pytest.raises(SpatialBoostError, match="at least one room"):
        Rooms(0)
    with pytest.raises(SpatialBoostError, match="at least one camera"):
        Rooms(2, views=0)


def test_the_first_of_several_views_is_the_view_of_a_room():
    alone, scene = Rooms(5, size=32)[4], Rooms(5, size=32, views=3)[4]
    assert [view.source for view in scene.views] == ["synthetic:4", "synthetic:4/view1", "synthetic:4/view2"]
    np.testing.assert_array_equal(scene.views[0].image_HW3, alone.image_HW3)
    np.testing.assert_array_equal(scene.views[0].depth_HW, alone.depth_HW)
    two = Rooms(1, first=4, size=32, views=2)[0]
    np.testing.assert_array_equal(two.views[1].image_HW3, scene.views[1].image_HW3)


def test_views_of_a_room_see_much_of_the_same():
    shares = []
    for scene in Rooms(24, size=48, views=3):
        first, *others = scene.views
        points = unproject(first.depth_HW, first.intrinsics_33).reshape(-1, 3)
        for view, pose in zip(others, scene.poses[1:], strict=True):
            assert 0.05 < np.linalg.norm(pose[:3, 3]) < 1.5
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


def test_two_pictures_of_one_camera_have_not_the_same_noise():
    room = sample_room(3)
    first, second = render_views(room, [room.pose_44] * 2, size=32)
    np.testing.assert_array_equal(first.depth_HW, second.depth_HW)
    assert room.noise > 0
    assert not np.array_equal(first.image_HW3, second.image_HW3)
