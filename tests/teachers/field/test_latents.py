"""The latents of a trained field as a scene encoder: cameras, batches, training a scene adapter, and refused input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from paths_of_rooms import run_settings
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.rooms import Rooms
from spatialboost.teachers.field import FieldLatents, FieldOptions, FieldTeacher
from spatialboost.teachers.field.cameras import Cameras
from spatialboost.teachers.field.geometry import Geometry, KnownGeometry
from spatialboost.teachers.field.views import stack_sequences
from spatialboost.teachers.protocol import TeacherInputs
from spatialboost.training import load_config, train
from spatialboost.training.run import open_teacher

ROOM = Rooms(1, first=50, size=64, views=3)[0]
FRAMES = [view.image_HW3 for view in ROOM.views]


def cameras(frames):
    """Those of the room's views, found by their pixels."""
    views = [next(view for view in ROOM.views if np.array_equal(view.image_HW3, frame)) for frame in frames]
    return [view.pose_44 for view in views], [view.intrinsics_33 for view in views]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    given = run_settings(tmp_path_factory.mktemp("latents"))
    options = {"kind": "field", "frames": [2, 3], "width": 32, "heads": 2, "depth": 1, "latents": 8, "evaluate": 0}
    stage = {"steps": 1, "batch_size": 2}
    train(load_config({**given, "teacher": options, "field": stage, "boost": stage}))
    return open_teacher(given["out"])


def test_the_latents_are_those_with_which_the_run_renders(teacher):
    latents = FieldLatents(teacher, cameras)([FRAMES])
    assert latents.shape == (1, 8, 32) and latents.shape[2] == FieldLatents(teacher, cameras).width
    example = teacher.make_example(None, [], []).of_scene(ROOM, contexts=3)
    with torch.no_grad():
        assert torch.equal(teacher.objective.encode(stack_sequences([example])), latents)


def test_samples_of_other_lengths_do_not_see_each_other_and_the_world_does_not_matter(teacher):
    encode = FieldLatents(teacher, cameras)
    together = encode([FRAMES, FRAMES[1:], FRAMES[:1]])
    for i, alone in enumerate([FRAMES, FRAMES[1:], FRAMES[:1]]):
        torch.testing.assert_close(together[i], encode([alone])[0], atol=1e-5, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-3
    moved = np.eye(4)
    moved[:3] = [[0, -1, 0, 4.0], [1, 0, 0, -2.0], [0, 0, 1, 1.0]]

    def elsewhere(frames):
        poses, intrinsics = cameras(frames)
        return [moved @ pose for pose in poses], intrinsics

    torch.testing.assert_close(FieldLatents(teacher, elsewhere)([FRAMES]), together[:1], atol=1e-4, rtol=1e-3)


def test_what_cannot_be_is_told(teacher):
    with pytest.raises(
        SpatialBoostError, match=r"trained on known cameras, .*: give `cameras`, .* geometry.kind: vggt"
    ):
        FieldLatents(teacher)
    with pytest.raises(SpatialBoostError, match=r"the teacher is a Linear; expected the FieldTeacher"):
        FieldLatents(nn.Linear(1, 1))
    encode = FieldLatents(teacher, cameras)
    for nothing in ([], [FRAMES, []]):
        with pytest.raises(SpatialBoostError, match="a sample without frames has no scene latents"):
            encode(nothing)

    def given(poses, intrinsics):
        return FieldLatents(teacher, lambda frames: (poses, intrinsics))([FRAMES[:1]])

    intrinsics = ROOM.views[0].intrinsics_33
    with pytest.raises(SpatialBoostError, match="2 poses and 1 intrinsics for 1 frames"):
        given([np.eye(4)] * 2, [intrinsics])
    with pytest.raises(SpatialBoostError, match=r"frame 0: pose .* is not a rotation and a translation"):
        given([np.diag([2.0, 1, 1, 1])], [intrinsics])
    with pytest.raises(SpatialBoostError, match=r"frame 0: intrinsics are \(2, 2\), expected a 3x3 matrix"):
        given([np.eye(4)], [np.eye(2)])


class _Seeing(KnownGeometry):
    """A geometry model that finds cameras in the images, as VGGT does, and has context features of its own."""

    columns = ("images",)
    width = 4

    def __call__(self, batch):
        images = batch["geometry_images"].float() / 255
        count = len(images)
        assert torch.equal(batch["contexts"], batch["frames"])  # all views are context
        seen = nn.functional.adaptive_avg_pool2d(images, self.grid).flatten(2).transpose(1, 2)
        seen = nn.functional.pad(seen, (0, 1))
        focal = torch.where(images.flatten(1).any(1), 1.0, torch.inf)[:, None] * torch.tensor([1.0, 1, 0, 0])
        views = Cameras(torch.eye(4).repeat(count, 1, 1), focal, self.grid)
        return Geometry(views, torch.ones(count, seen.shape[1]), seen, None, seen)


def test_a_geometry_model_that_finds_cameras_needs_none(teacher):
    options = FieldOptions(
        width=32,
        heads=2,
        depth=1,
        latents=8,
        standardise=False,
        pupil="context",
        geometry={"kind": "vggt", "image_size": [28, 42]},
    )
    inputs = TeacherInputs(encoder=teacher.objective.encoder, images=teacher.images, rows=[], training=[], seed=0)
    seeing = FieldTeacher.with_geometry(options, inputs, _Seeing((2, 3)))
    latents = FieldLatents(seeing)([FRAMES, FRAMES[:1]])
    assert latents.shape == (2, 8, 32)
    changed = [FRAMES[0], 255 - FRAMES[1], FRAMES[2]]
    assert (FieldLatents(seeing)([changed])[0] - latents[0]).abs().max() > 1e-4
    with pytest.raises(SpatialBoostError, match="a field on vggt finds the cameras itself: leave out `cameras`"):
        FieldLatents(seeing, cameras)
    black = [np.zeros_like(frame) for frame in FRAMES]
    with pytest.raises(SpatialBoostError, match="latents of sample 1 are not finite: the geometry model finds no cam"):
        FieldLatents(seeing)([FRAMES, black])
