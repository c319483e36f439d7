"""Rays and points of patches, against the pinhole camera of the scenes."""

from __future__ import annotations

import numpy as np
import torch

from spatialboost.scenes.camera import project, to_normalised, to_pixels
from spatialboost.scenes.rooms.render import render_scenes
from spatialboost.teachers.correspondence.sequences import cell_centres
from spatialboost.teachers.field.cameras import Cameras, point_features
from spatialboost.teachers.field.views import normalised_intrinsics

GRID, SIZE = (3, 4), (60, 80)


def cameras_of(scene) -> Cameras:
    poses = torch.from_numpy(np.stack([np.linalg.inv(pose) for pose in scene.poses])).float()
    intrinsics = [normalised_intrinsics(view.intrinsics_33, view.size) for view in scene.views]
    return Cameras(poses, torch.stack(intrinsics), GRID)


def test_points_of_patches_project_to_the_centres_of_the_patches():
    scene = render_scenes([3], views=3, size=SIZE)[0]
    cameras = cameras_of(scene)
    depths = torch.rand(3, 12) + 1
    points = cameras.points(depths).double().numpy()
    for number, (view, pose) in enumerate(zip(scene.views, scene.poses, strict=True)):
        inside = (points[number] - pose[:3, 3]) @ pose[:3, :3]
        np.testing.assert_allclose(inside[:, 2], depths[number], atol=1e-5)
        pixels = project(inside, view.intrinsics_33)
        np.testing.assert_allclose(pixels, to_pixels(cell_centres(GRID), view.size), atol=2e-3)
        projected = cameras.projections()[number].double().numpy() @ np.append(points[number][7], 1)
        share = projected[:2] / projected[2] + 0.5
        np.testing.assert_allclose(share, to_normalised(pixels[7], view.size), atol=1e-4)


def test_pluecker_rays_contain_their_points():
    scene = render_scenes([3], views=3, size=SIZE)[0]
    cameras = cameras_of(scene)
    moments, directions = cameras.pluecker().split(3, -1)
    points = cameras.points(torch.full((3, 12), 2.0))
    torch.testing.assert_close(torch.linalg.cross(points, directions), moments, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(3, 12))
    torch.testing.assert_close(directions[0], cameras.directions()[0])  # the first camera is the world


def test_features_of_points_differ_by_how_far_they_are_apart():
    features = point_features(torch.tensor([[0.0, 0, 1], [0.0, 0, 1.05], [0.0, 0, 1.5]]))
    near, far = (features[0] - features[1]).norm(), (features[0] - features[2]).norm()
    assert 0 < near < far and torch.allclose(features.norm(dim=-1), torch.tensor(15.0).sqrt())
