"""Tracks against an independent computation: rays cast at the boxes of a rendered room, and known planes."""

import numpy as np
import pytest

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.camera import unproject
from spatialboost.scenes.cues import Cues
from spatialboost.scenes.rooms.render import render_scenes
from spatialboost.scenes.scene import Scene
from spatialboost.scenes.tracks import find_tracks, rotation_angle

CAMERA = np.array([[50.0, 0, 31.5], [0, 50.0, 23.5], [0, 0, 1]])
SIZE = (48, 64)


def wall(depth: float | np.ndarray, pose: np.ndarray | None = None, source: str = "wall", **more) -> Cues:
    depth_hw = np.broadcast_to(np.asarray(depth, np.float32), SIZE).copy()
    return Cues(
        np.zeros((*SIZE, 3), np.uint8), depth_hw, CAMERA, source, pose_44=np.eye(4) if pose is None else pose, **more
    )


def moved(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, 3] = x, y, z
    return pose


def pixels(step: int = 4) -> np.ndarray:
    rows, columns = np.mgrid[6 : SIZE[0] - 6 : step, 6 : SIZE[1] - 6 : step]
    return np.stack([columns.ravel(), rows.ravel()], -1).astype(float)


def test_a_camera_that_moves_along_a_wall_shifts_all_points_by_focal_length_times_move_over_depth():
    tracks = find_tracks(Scene([wall(2.0), wall(2.0, moved(x=0.2))]), pixels())
    np.testing.assert_allclose(tracks.pixels_VT2[1] - tracks.pixels_VT2[0], [[-5.0, 0]] * len(tracks), atol=1e-9)
    inside = tracks.pixels_VT2[1, :, 0] >= 3.5
    assert (tracks.visible_VT[1] == inside).all() and 0 < inside.sum() < len(inside)


def test_a_camera_that_moves_forward_sees_points_move_away_from_the_middle():
    tracks = find_tracks(Scene([wall(2.0), wall(1.0, moved(z=1.0))]), pixels())
    middle = CAMERA[:2, 2]
    np.testing.assert_allclose(tracks.pixels_VT2[1] - middle, 2 * (tracks.pixels_VT2[0] - middle), atol=1e-9)
    np.testing.assert_allclose(tracks.depths_VT[1], 1.0)


def test_a_hidden_point_is_not_visible():
    """A screen at 1 m covers the left half of the second view."""
    behind = np.full(SIZE, 2.0)
    behind[:, :32] = 1.0
    scene = Scene([wall(2.0), wall(behind, moved(x=0.02))])
    tracks = find_tracks(scene, pixels())
    left = tracks.pixels_VT2[1, :, 0] < 31
    right = tracks.pixels_VT2[1, :, 0] > 32
    assert not tracks.visible_VT[1, left].any() and tracks.visible_VT[1, right].all()
    assert find_tracks(scene, pixels(), occluder=False).visible_VT[1, left].any()


@pytest.mark.parametrize(("off", "seen"), [(1.04, True), (1.06, False), (0.96, True), (0.94, False)])
def test_depths_agree_within_five_percent_of_the_smaller_one(off, seen):
    tracks = find_tracks(Scene([wall(2.0), wall(2.0 * off)]), pixels())
    assert tracks.visible_VT[1].all() == seen and tracks.visible_VT[1].any() == seen


def test_noise_widens_the_tolerance():
    noisy = Scene([wall(2.0, depth_noise=0.01), wall(2.16, depth_noise=0.01)])
    assert find_tracks(noisy, pixels()).visible_VT[1].all()


def test_points_without_depth_or_behind_the_camera_are_not_visible():
    hole = np.full(SIZE, 2.0)
    hole[:24] = np.nan
    tracks = find_tracks(Scene([wall(hole), wall(2.0)]), pixels())
    above = pixels()[:, 1] < 24
    assert not tracks.visible_VT[:, above].any() and tracks.visible_VT[:, ~above].all()
    turned = np.diag([-1.0, 1.0, -1.0, 1.0])
    behind = find_tracks(Scene([wall(2.0), wall(2.0, turned)]), pixels())
    assert not behind.visible_VT[1].any() and np.isnan(behind.pixels_VT2[1]).all()


def test_rooms_agree_with_points_that_are_lifted_from_both_views():
    """A visible point, lifted by the second view's own depth map, is the point that the first view has lifted."""
    checked = 0
    for scene in render_scenes(range(8), views=2, size=96):
        rows, columns = np.mgrid[4:92:4, 4:92:4]
        tracks = find_tracks(scene, np.stack([columns.ravel(), rows.ravel()], -1).astype(float))
        first, second = scene.views
        world = [
            unproject(view.depth_HW, view.intrinsics_33) @ view.pose_44[:3, :3].T + view.pose_44[:3, 3]
            for view in (first, second)
        ]
        seen = tracks.visible_VT[1]
        ours = world[0][rows.ravel()[seen], columns.ravel()[seen]]
        # the nearest of the 25 pixels around the projection, as edges fall between pixels
        u, v = np.round(tracks.pixels_VT2[1, seen]).astype(int).T
        near = np.stack(
            [world[1][np.clip(v + a, 0, 95), np.clip(u + b, 0, 95)] for a in range(-2, 3) for b in range(-2, 3)]
        )
        depth = tracks.depths_VT[1, seen]
        error = np.linalg.norm(near - ours, axis=-1).min(0)
        assert (error < 0.06 * depth).all(), error.max()
        checked += int(seen.sum())
    assert checked > 500


def test_wrong_points_are_refused():
    scene = Scene([wall(2.0), wall(2.0)])
    with pytest.raises(SpatialBoostError, match=r"expected \(T, 2\)"):
        find_tracks(scene, np.zeros((3, 3)))
    with pytest.raises(SpatialBoostError, match="outside the first image"):
        find_tracks(scene, np.array([[70.0, 3.0]]))


def test_rotation_angle():
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]]
    assert rotation_angle(turn) == pytest.approx(np.degrees(0.5))
