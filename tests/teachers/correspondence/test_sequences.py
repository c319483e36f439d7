"""Sequences of rows: tracks against an independent ray-cast, the choice of views and points, and rows that are bad."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from typer.testing import CliRunner

from plain_raycast import first_hits
from rendered_walk import NUM, matrix, shot
from set_writers import SMALL, save, stored, write_colmap, write_dl3dv
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.camera import to_pixels
from spatialboost.scenes.data_command import app
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.scenes.dataset.row import encode_image, millimetres
from spatialboost.scenes.rooms.render import render_scenes, sample_room
from spatialboost.scenes.scene import Scene
from spatialboost.scenes.sources import Walk
from spatialboost.scenes.tracks import find_tracks
from spatialboost.teachers.correspondence import CorrespondenceOptions
from spatialboost.teachers.correspondence.epipolar import fundamental_matrix, sampson_distance
from spatialboost.teachers.correspondence.sequences import Sequences, cell_centres
from spatialboost.training import RowImages

GRID = (4, 4)


@pytest.fixture(scope="module")
def images() -> RowImages:
    return RowImages(VisionTransformer(img_size=64, patch_size=16, embed_dim=48, depth=1, num_heads=2), 64)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return render_scenes(range(8), views=4, size=96)


def row_of(scene: Scene, **changes) -> dict:
    return {
        "images": [encode_image(view.image_HW3) for view in scene.views],
        "depths": [encode_image(millimetres(view)) for view in scene.views],
        "poses": [view.pose_44.tolist() for view in scene.views],
        "intrinsics": [np.asarray(view.intrinsics_33).tolist() for view in scene.views],
        **changes,
    }


def sequences(images: RowImages, whole: bool = False, shuffle: bool = False, **options) -> Sequences:
    made = CorrespondenceOptions(**{"frames": (2, 4), **options})
    return Sequences(images, GRID, made, whole=whole, shuffle=shuffle)


def world_rays(view, pixels_T2: np.ndarray) -> np.ndarray:
    rays = np.concatenate([pixels_T2, np.ones((len(pixels_T2), 1))], 1) @ np.linalg.inv(view.intrinsics_33).T
    return rays @ view.pose_44[:3, :3].T


@pytest.mark.parametrize(("neighbours", "least", "most"), [("all", 1.0, 1.0), ("any", 0.98, 0.999)])
def test_tracks_of_rooms_are_those_of_an_independent_ray_cast(scenes, neighbours, least, most):
    """Both rays, each cast in float64, hit the same place. `any` also takes points behind edges of nearer things."""
    right, count, depth_error = 0, 0, 0.0
    for seed, scene in enumerate(scenes):
        room, first = sample_room(seed), scene.views[0]
        pixels = np.stack(np.meshgrid(np.arange(4.0, 92, 4), np.arange(4.0, 92, 4)), -1).reshape(-1, 2)
        tracks = find_tracks(scene, pixels, neighbours=neighbours)
        rays = world_rays(first, pixels)
        points = first.pose_44[:3, 3] + first_hits(room, first.pose_44[:3, 3], rays)[0][:, None] * rays
        for number, view in enumerate(scene.views[1:], 1):
            seen = tracks.visible_VT[number]
            rays, centre = world_rays(view, tracks.pixels_VT2[number, seen]), view.pose_44[:3, 3]
            far, _ = first_hits(room, centre, rays)
            error = np.linalg.norm(centre + far[:, None] * rays - points[seen], axis=1) / far
            same = error < 0.002
            right, count = right + same.sum(), count + len(same)
            depth_error = max(depth_error, np.abs(tracks.depths_VT[number, seen] / far - 1)[same].max(initial=0))
    assert count > 3000 and least <= right / count <= most and depth_error < 0.002


def test_the_example_of_a_row_is_what_find_tracks_says(images, scenes):
    scene = scenes[2]
    example = sequences(images, whole=True)(7, row_of(scene))
    tracks = find_tracks(scene, to_pixels(cell_centres(GRID), (96, 96)), neighbours="all")
    assert example["pixel_values"].shape == (4, 3, 64, 64) and example["places"].tolist() == [0, 1, 2, 3]
    assert torch.equal(example["visible"], torch.from_numpy(tracks.visible_VT))
    for number, view in enumerate(scene.views):
        seen = tracks.visible_VT[number]
        found = to_pixels(example["points"][number].numpy(), view.size)[seen]
        np.testing.assert_allclose(found, tracks.pixels_VT2[number, seen], atol=0.02)
        np.testing.assert_allclose(example["depths"][number].numpy()[seen], tracks.depths_VT[number, seen], atol=2e-3)
    block = scene.views[1].depth_HW[:24, 24:48]
    assert example["patch_depths"][1, 1] == pytest.approx(np.exp(np.log(block).mean()), rel=1e-3)
    centre = sequences(images, whole=True, patch_depth="centre")(7, row_of(scene))["patch_depths"]
    assert centre[1, 1] == pytest.approx(scene.views[1].depth_HW[12, 36], abs=1e-3)


def test_a_sequence_depends_on_row_and_seed_only(images, scenes):
    row, made = row_of(scenes[3]), sequences(images, frames=(3, 3), grids=[6], points=12)
    one, two = made(5, row), pickle.loads(pickle.dumps(made))(5, row)
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert one["visible"].shape == (3, 12) and one["visible"][0].all() and one["visible"][1:].any(0).all()
    other = {tuple(made(number, row)["places"].tolist()) for number in range(12)}
    assert len(other) > 4 and all(len(places) == 3 and places[0] == 0 for places in other)
    near = [sequences(images, frames=(4, 4), window=1)(number, row)["places"].abs().max() for number in range(6)]
    assert max(near) == 1


def test_of_too_many_points_those_seen_most_often_are_kept(images, scenes):
    row = row_of(scenes[3])
    every = sequences(images, frames=(4, 4), grids=[16], points=500)(1, row)["visible"].sum(0).float()
    kept = sequences(images, frames=(4, 4), grids=[16], points=20, keep=0.2)(1, row)["visible"].sum(0).float()
    assert len(every) > 100 and len(kept) == 20
    assert (
        kept.min() >= every.sort(descending=True).values[: round(0.2 * len(every))].min() and every.mean() < kept.mean()
    )


def test_the_control_has_the_same_places_and_no_true_match(images, scenes):
    row = row_of(scenes[3])
    true, control = (sequences(images, frames=(4, 4), shuffle=each)(2, row) for each in (False, True))
    assert torch.equal(true["visible"], control["visible"]) and torch.equal(true["points"][0], control["points"][0])
    for view in range(1, 4):
        seen = true["visible"][view]
        ours, theirs = true["points"][view, seen], control["points"][view, seen]
        assert not (ours == theirs).all(1).any()
        assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, theirs.tolist()))


def test_further_negatives_are_no_possible_match(images, scenes):
    example = sequences(images, frames=(4, 4), grids=[5], epipolar=6, epipolar_distance=12)(4, row_of(scenes[3]))
    valid, far = example["far_valid"], example["far"]
    assert far.shape == (*example["points"].shape[:2], 6, 2) and not valid[0].any() and valid.any()
    assert ((far[valid] >= 0) & (far[valid] < 1)).all()
    scene = scenes[3]
    order = example["places"] - example["places"].min()
    views = [scene.views[i] for i in order]
    poses = Scene(views).poses
    for number, view in enumerate(views[1:], 1):
        matrix = fundamental_matrix(views[0].intrinsics_33, view.intrinsics_33, poses[number])
        first = to_pixels(example["points"][0].double().numpy(), (96, 96))
        seen = example["visible"][number].numpy()
        second = to_pixels(example["points"][number].double().numpy(), (96, 96))
        assert sampson_distance(matrix, first[seen], second[seen]).max(initial=0) < 0.01  # true matches are on the line
        places = to_pixels(far[number].double().numpy(), (96, 96))
        distance = sampson_distance(matrix, np.broadcast_to(first[:, None], places.shape), places)
        assert distance[valid[number].numpy()].min(initial=99) > 11.9


@pytest.fixture
def scene(scenes) -> Scene:
    return scenes[1]


def inverted(scene: Scene) -> list:
    return [np.linalg.inv(view.pose_44).tolist() for view in scene.views]


def stretched(scene: Scene) -> list:
    return [(view.pose_44 @ np.diag([1.2, 1, 1, 1])).tolist() for view in scene.views]


def far_away(scene: Scene) -> list:
    poses = [view.pose_44.copy() for view in scene.views]
    for number, pose in enumerate(poses):
        pose[:3, 3] += [100.0 * number, 0, 0]
    return [pose.tolist() for pose in poses]


BAD = {
    "world to camera": (lambda s: {"poses": inverted(s)}, r"and at \d+% read as world to camera: invert the poses"),
    "not rigid": (lambda s: {"poses": stretched(s)}, "is not a rotation and a translation; expected"),
    "no overlap": (lambda s: {"poses": far_away(s)}, r"no point of view \d is seen in one of 3 other views"),
    "no pose": (lambda s: {"poses": [None] * 4}, "view 1 of 4 has no pose"),
    "one view": (lambda s: {key: value[:1] for key, value in row_of(s).items()}, "it has 1 view; correspondence needs"),
    "no depth": (lambda s: {"depths": [encode_image(np.zeros((96, 96), np.uint16))] * 4}, "no pixel has a valid depth"),
    "another number": (lambda s: {"depths": row_of(s)["depths"][:3]}, "it has 4 images, 3 depths, 4 poses, 4 intrin"),
    "no list": (lambda s: {"intrinsics": None}, "`intrinsics` is None; expected a list with one entry for each image"),
    "another size": (
        lambda s: {"depths": [encode_image(np.full((48, 96), 2000, np.uint16))] * 4},
        "depth map is .48, 96. but the image is .96, 96.; resize",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_say_what_is_wrong(images, scene, name):
    change, message = BAD[name]
    with pytest.raises(SpatialBoostError, match=message):
        sequences(images, frames=(4, 4), grids=[8])(0, row_of(scene, **change(scene)))


def test_views_of_many_sizes_give_the_same_places(images, scene):
    from spatialboost.scenes.sources import resize_cues

    sizes = [(96, 96), (48, 96), (64, 48), (96, 60)]
    mixed = Scene([resize_cues(view, size) for view, size in zip(scene.views, sizes, strict=True)])
    ours, theirs = (sequences(images, whole=True)(0, row_of(each)) for each in (mixed, scene))
    both = ours["visible"] & theirs["visible"]
    assert both[1:].sum() > 10 and ours["pixel_values"].shape == theirs["pixel_values"].shape
    assert (ours["points"] - theirs["points"])[both].abs().max() < 0.03  # depth of the nearest pixel differs a little


def write_reconstruction(name: str, folder: Path) -> None:
    """Two recordings with poses in units of half a metre; the first one has depth maps in this unit."""
    for recording in ("a", "b"):
        if name == "dl3dv":
            write_dl3dv(folder, recording)
        else:
            write_colmap(folder / recording)
            shutil.rmtree(folder / recording / "depth")
    for index in range(NUM):
        depth = 2 * shot(index, matrix(66.0, 66.0, 39.8, 29.6), SMALL)[1]
        file = folder / "a" / "depth" / (f"frame_{index + 1:05d}.png" if name == "dl3dv" else f"{index:03d}.png")
        save(file, stored(depth, 1000))


@pytest.mark.parametrize("name", ["dl3dv", "colmap"])
def test_folders_of_reconstructions_become_sequences_and_what_has_no_depth_or_overlap_is_named(
    images, tmp_path, name, caplog
):
    """Poses in a unit of their own, and depth maps of a geometry model in the same unit."""
    write_reconstruction(name, tmp_path / "in")
    words = ["build", "--source", name, "--path", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    said = CliRunner().invoke(
        app, [*words, "--views", "3", "--stride", "2", "--pose-scale", "1", "--depth-scale", "1000"]
    )
    assert said.exit_code == 0, said.output
    assert "skipped 2 of 4" in caplog.text and "depth_HW is not known" in caplog.text  # the windows of b
    rows = open_rows([tmp_path / "out"])
    example = sequences(images, frames=(2, 3), grids=[8])(0, rows[0])
    assert example["visible"][1:].any(0).sum() > 20
    turned = {**rows[0], "poses": [np.linalg.inv(pose).tolist() for pose in rows[0]["poses"]]}
    with pytest.raises(SpatialBoostError, match="read as world to camera: invert the poses"):
        sequences(images, frames=(3, 3), grids=[8])(0, turned)


def test_tracks_of_real_frames_are_as_good_as_the_sensor(assets):
    from spatialboost.scenes.readers.rgbd import RGBDFolder

    walk = Walk(RGBDFolder(assets / "rgbd_room"), views=3, stride=6)
    errors = []
    pixels = np.stack(np.meshgrid(np.arange(4.0, 536, 12), np.arange(4.0, 356, 12)), -1).reshape(-1, 2)
    for number in (0, 60, 120, 180, 240):
        scene = walk[number]
        tracks = find_tracks(scene, pixels, neighbours="all")
        for view, seen, uv, depth in zip(
            scene.views[1:], tracks.visible_VT[1:], tracks.pixels_VT2[1:], tracks.depths_VT[1:], strict=True
        ):
            column, row = np.rint(uv[seen]).astype(int).T
            errors.append(np.abs(view.depth_HW[row, column] / depth[seen] - 1))
    assert np.concatenate(errors).size > 2000 and np.median(np.concatenate(errors)) < 0.004
