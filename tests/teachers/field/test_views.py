"""From rows to sequences: which views, which cameras and depths, and rows that are bad."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.row import encode_image, millimetres
from spatialboost.scenes.rooms.render import render_scenes
from spatialboost.scenes.scene import Scene
from spatialboost.teachers.field import FieldOptions
from spatialboost.teachers.field.cameras import Cameras
from spatialboost.teachers.field.views import Views, choose_views, stack_sequences
from spatialboost.training import RowImages

GRID = (4, 4)


@pytest.fixture(scope="module")
def images() -> RowImages:
    return RowImages(VisionTransformer(img_size=64, patch_size=16, embed_dim=48, depth=1, num_heads=2), 64)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return render_scenes([2], views=4, size=64)[0]


def row_of(scene: Scene, **changes) -> dict:
    return {
        "images": [encode_image(view.image_HW3) for view in scene.views],
        "depths": [encode_image(millimetres(view)) for view in scene.views],
        "poses": [view.pose_44.tolist() for view in scene.views],
        "intrinsics": [np.asarray(view.intrinsics_33).tolist() for view in scene.views],
        **changes,
    }


def views(images: RowImages, **options) -> Views:
    return Views(images, FieldOptions(**{"frames": (4, 4), **options}), GRID)


def test_views_are_split_as_in_the_paper():
    """The first view is context; of V views int(V / 2) are."""
    for count, contexts in ((4, 2), (5, 2), (8, 4), (12, 6), (2, 1), (3, 1)):
        chosen, found = choose_views(np.random.default_rng(count), count, FieldOptions(frames=(count, count)))
        assert found == contexts and sorted(chosen) == list(range(count)) and chosen[0] == 0
        assert chosen[:found] == sorted(chosen[:found]) and chosen[found:] == sorted(chosen[found:])
    drawn = {choose_views(np.random.default_rng(seed), 4, FieldOptions(frames=(4, 4)))[0][1] for seed in range(20)}
    assert drawn == {1, 2, 3}


def test_cameras_and_depths_of_a_row_say_where_its_points_are(images, scene):
    """A point that a patch of one view shows has, in another view that sees it, the depth that is measured there."""
    fine = (16, 16)
    example = Views(images, FieldOptions(frames=(4, 4)), fine)(0, row_of(scene))
    cameras = Cameras(example["poses"], example["intrinsics"], fine)
    torch.testing.assert_close(example["poses"][0], torch.eye(4), atol=1e-6, rtol=0)
    points = torch.cat([cameras.points(example["depths"])[0], torch.ones(256, 1)], -1)
    agree, inside = 0, 0
    for view in range(1, 4):
        x, y, z, _ = (points @ cameras.projections()[view].T).unbind(-1)
        columns, rows = (x / z + 0.5) * 16, (y / z + 0.5) * 16
        within = (columns > 0) & (columns < 16) & (rows > 0) & (rows < 16) & (z > 0)
        measured = example["depths"][view].view(fine)[rows.clamp(0, 15).long(), columns.clamp(0, 15).long()]
        inside += int(within.sum())
        agree += int(((measured / z - 1).abs()[within] < 0.1).sum())
    assert inside > 200 and agree > 0.8 * inside, (agree, inside)


def test_the_same_row_gives_the_same_example_in_any_process(images, scene):
    made = views(images, frames=(2, 4))
    one, other = made(7, row_of(scene)), pickle.loads(pickle.dumps(made))(7, row_of(scene))
    assert all(torch.equal(one[name], other[name]) for name in one)
    batch = stack_sequences([one, other])
    assert batch["frames"].tolist() == [len(one["depths"])] * 2 and len(batch["poses"]) == 2 * len(one["poses"])


def test_views_of_many_sizes(images, scene):
    from spatialboost.scenes.sources import resize_cues

    mixed = Scene([resize_cues(view, size) for view, size in zip(scene.views, (64, 48, (40, 80), 32), strict=True)])
    ours, theirs = views(images)(0, row_of(mixed)), views(images)(0, row_of(scene))
    torch.testing.assert_close(ours["intrinsics"], theirs["intrinsics"], atol=1e-5, rtol=1e-4)
    assert ours["pixel_values"].shape == (4, 3, 64, 64)
    assert ((ours["depths"] / theirs["depths"] - 1).abs() < 0.1).float().mean() > 0.8


def test_images_for_vggt_have_their_own_size(images, scene):
    options = {"geometry": {"kind": "vggt", "image_size": (28, 42)}}
    example = views(images, **options)(0, {"images": row_of(scene)["images"]})
    assert example["geometry_images"].shape == (4, 3, 28, 42) and example["geometry_images"].dtype == torch.uint8
    assert set(example) == {"pixel_values", "frames", "contexts", "geometry_images"}


def turned_around(scene: Scene) -> list:
    around = np.diag([-1.0, 1, -1, 1])
    return [(view.pose_44 @ (np.eye(4) if i == 0 else around)).tolist() for i, view in enumerate(scene.views)]


BAD = {
    "one view": (lambda s: {k: v[:1] for k, v in row_of(s).items()}, "it has 1 view; a field needs at least two"),
    "too few poses": (lambda s: row_of(s, poses=[np.eye(4).tolist()]), "`poses` is .*expected a list with one entry"),
    "no depths": (lambda s: row_of(s, depths=None), "`depths` is None; expected a list with one entry for each of 4"),
    "no pose": (lambda s: row_of(s, poses=[None] * 4), "has no pose"),
    "not rigid": (lambda s: row_of(s, poses=[(2 * np.eye(4)).tolist()] * 4), "is not a rotation and a translation"),
    "no overlap": (lambda s: row_of(s, poses=turned_around(s)), "no point of .* is seen in one of 3 other views"),
    "world to camera": (
        lambda s: row_of(s, poses=[np.linalg.inv(v.pose_44).tolist() for v in s.views]),
        "read as world to camera: invert the poses",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_refused_with_one_line(images, scene, name):
    make, message = BAD[name]
    with pytest.raises((SpatialBoostError, ValueError), match=message) as found:
        views(images)(0, make(scene))
    assert "\n" not in str(found.value)
