"""The points probe: features that know the answer, noise, and lifting and registration computed a second time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from timm.models.vision_transformer import VisionTransformer

from place_tokens import features_of, place_tokens
from set_writers import write_scannet
from spatialboost.boosting import boost
from spatialboost.errors import SpatialBoostError
from spatialboost.probes.inputs import SceneSplits
from spatialboost.probes.lifting import FINE, LiftedScene, class_of
from spatialboost.probes.points import BASELINE, PointsProbe, points_probe
from spatialboost.probes.registration import fit_motion, measure_motion
from spatialboost.probes.run import run_probe
from spatialboost.probes.view_scenes import ViewScenes
from spatialboost.probes.views import open_views
from spatialboost.scenes.camera import unproject
from spatialboost.scenes.rooms.render import look, render_scenes, render_views, sample_room

SIDE, GRID, VIEWS = 64, 8, 6
TRAIN, TEST = (render_scenes(range(first, first + num), views=VIEWS, size=SIDE) for first, num in ((0, 4), (50, 2)))


def thing_tokens(view) -> torch.Tensor:
    """The class and the identity of what is at each patch centre, as random vectors of their names."""
    step, rows = SIDE // GRID, []
    for row in range(GRID):
        for column in range(GRID):
            at = step * row + step // 2, step * column + step // 2
            thing = next((thing for thing in view.objects if thing.mask_HW[at]), None)
            rows.append(
                vector("room") if thing is None else vector(class_of(thing.description)) * 2 + vector(thing.identity)
            )
    return torch.stack(rows)


def vector(name: str) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(list(name.encode())).normal(size=24)).float()


def measured(make, train=TRAIN, test=TEST, **options):
    features = tuple(features_of(scenes, make, GRID, SIDE) for scenes in (train, test))
    probe = PointsProbe(steps=60, voxel=0.1, points=512, rates=(0.03,), **options)
    return run_probe(probe, {"mine": features}, train, test)


def test_tokens_that_know_what_they_show_tell_classes_and_find_objects() -> None:
    result = measured(thing_tokens)
    assert result.spread("mine", "accuracy").mean > result.values(BASELINE, "accuracy")[0]  # most points are background
    assert result.spread("mine", "miou").mean > 1.5 * result.values(BASELINE, "miou")[0]
    assert result.spread("mine", "found").mean > 0.75 > 0.5 > result.values(BASELINE, "found")[0]
    assert result.settings["classes"][0] == "background" and result.settings["scenes"] == [4, 2]
    assert [row.seed for row in result.rows] == [0, 1, 2, None] and len(result.rows[0].per_view) == 2


def test_tokens_that_know_their_place_register_the_halves() -> None:
    result = measured(lambda view: place_tokens(view, GRID))
    assert result.rows[0].chosen["scenes with enough in common"] == 2
    assert result.spread("mine", "translation").mean < 0.1 < result.values(BASELINE, "translation")[0]
    assert result.spread("mine", "rotation").mean < 3 < result.values(BASELINE, "rotation")[0]


def test_noise_is_at_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    result = measured(lambda view: torch.randn(GRID * GRID, 24, generator=generator))
    assert result.spread("mine", "miou").mean < 1.15 * result.values(BASELINE, "miou")[0]
    assert result.spread("mine", "registered").mean == 0 == result.values(BASELINE, "registered")[0]


def test_points_and_features_are_those_of_a_loop() -> None:
    views, voxel = TEST[0].views[:2], 0.2
    tokens = [torch.randn(GRID * GRID, 5, generator=torch.Generator().manual_seed(number)) for number in range(2)]
    scene = LiftedScene(views, (GRID, GRID), voxel)
    ours = dict(
        zip(
            [tuple(each) for each in np.floor(scene.points_P3 / voxel).astype(int).tolist()],
            scene.features(tokens),
            strict=True,
        )
    )
    cells: dict[tuple, list] = {}
    for view, tokens_ND in zip(views, tokens, strict=True):
        maps = tokens_ND.T.reshape(1, 5, GRID, GRID)
        large = torch.nn.functional.interpolate(maps, scale_factor=FINE, mode="bilinear", align_corners=False)[0]
        world = unproject(view.depth_HW, view.intrinsics_33) @ view.pose_44[:3, :3].T + view.pose_44[:3, 3]
        step = SIDE / (GRID * FINE)
        for row in range(GRID * FINE):
            for column in range(GRID * FINE):
                v, u = int((row + 0.5) * step), int((column + 0.5) * step)
                if view.valid_HW[v, u]:
                    cells.setdefault(tuple(np.floor(world[v, u] / voxel).astype(int).tolist()), []).append(
                        large[:, row, column]
                    )
    assert len(cells) == len(scene.points_P3)
    common = cells.keys() & ours.keys()
    assert len(common) > 0.95 * len(cells)  # the mean of a voxel's samples may round into the next voxel
    for cell in common:
        torch.testing.assert_close(ours[cell], torch.stack(cells[cell]).mean(0), atol=1e-4, rtol=1e-4)


def test_motions_are_found_among_wrong_matches_and_measured() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-2, 2, (300, 3))
    truth = np.eye(4)
    truth[:3, :3], truth[:3, 3] = Rotation.from_euler("xyz", [20, -35, 80], degrees=True).as_matrix(), [0.4, -1.0, 2.0]
    moved = points @ truth[:3, :3].T + truth[:3, 3]
    moved[:180] = rng.uniform(-3, 3, (180, 3))
    errors = measure_motion(fit_motion(points, moved, 0.1), truth, points)
    assert max(errors.rmse, errors.translation, errors.rotation) < 1e-5
    other = truth.copy()
    other[:3, 3] += [0.3, 0, 0.4]
    errors = measure_motion(other, truth, points)
    assert (errors.rmse, errors.translation) == (pytest.approx(0.5), pytest.approx(0.5)) and errors.rotation < 1e-4
    assert measure_motion(None, truth, points).rmse == np.inf
    assert fit_motion(points[:2], moved[:2], 0.1) is None


def test_recordings_without_objects_are_only_registered() -> None:
    poses = [look((0.05 * i, -1.4, -1.0), yaw=0.02 * i, pitch=0.2) for i in range(21)]
    walk = [replace(view, objects=()) for view in render_views(sample_room(3), poses, size=SIDE)]
    walk[3] = replace(walk[3], pose_44=None)
    scenes = ViewScenes(walk, views=5, stride=2)
    assert [[view.source.rpartition("view")[2] for view in scene.views] for scene in scenes] == [
        ["0", "2", "4", "6", "8"],
        ["10", "12", "14", "16", "18"],
    ]
    features = features_of(scenes, lambda view: place_tokens(view, GRID), GRID, SIDE)
    result = run_probe(PointsProbe(voxel=0.1), {"mine": (features, features)}, None, scenes)
    assert list(result.metrics) == ["registered", "translation", "rotation"] and len(result.rows) == 2
    assert "not measured" in result.settings["classes"]
    odd = ViewScenes(walk, views=5, stride=1)
    assert len(odd[0].views) == 4 and odd.left_out == ["3: synthetic:3/view3 has no pose"]
    with pytest.raises(SpatialBoostError, match="a scene needs 4 of one recording, 9 apart"):
        ViewScenes(walk, views=5, stride=9)
    with pytest.raises(SpatialBoostError, match="views are 3"):
        ViewScenes(walk, views=3)


def test_one_class_only_and_depth_with_holes() -> None:
    empty = [replace(scene, views=[replace(view, objects=()) for view in scene.views]) for scene in TRAIN[:2]]
    result = measured(lambda view: place_tokens(view, GRID), train=empty)
    assert "1 classes ['background']; expected at least 2" in result.settings["classes"]
    assert "miou" not in result.metrics and "found" in result.metrics
    holes = np.zeros((SIDE, SIDE), bool)
    holes[0, :3] = True
    views = [replace(view, valid_HW=holes) for view in TEST[0].views[:3]] + list(TEST[0].views[3:])
    scenes = ViewScenes([replace(TEST[0], views=views), TEST[1]])
    result = points_probe(
        {"mine": VisionTransformer(img_size=SIDE, patch_size=8, embed_dim=48, depth=1, num_heads=2, num_classes=0)},
        None, scenes, image_size=SIDE,
    )  # fmt: skip
    assert result.settings["scenes"] == [1]
    assert any("3 views that can be used" in each for each in result.settings["left out"])
    assert any("depth at 0.07% of its pixels" in each for each in result.settings["left out"])


def test_frames_and_labelled_mesh_of_scannet(tmp_path) -> None:
    write_scannet(tmp_path)
    scan = tmp_path / "scans" / "scene0011_00"
    scenes = ViewScenes(open_views(f"scannet:{tmp_path}"), views=6, stride=1)
    assert len(scenes) == 1 and scenes.has_labels() and scenes.labels(0) is None
    lifted = LiftedScene(scenes[0].views, (6, 8), 0.05)
    tokens = [torch.randn(48, 5) for _ in scenes[0].views]
    assert len(lifted.objects(tokens, fewest=1)) >= 2  # the instances of the scan have identities
    assert {"background", "box"} & set(lifted.names_P)
    write_mesh(scan / "scene0011_00_vh_clean_2.labels.ply", lifted.points_P3)
    labels = scenes.labels(0)
    names = labels.at(lifted.points_P3, 0.05)
    assert set(names) == {"wall", "chair", ""}  # 13 is outside of the benchmark
    assert (names == labels.names_P).all() and (labels.at(lifted.points_P3 + 9, 0.05) == "").all()
    broken = scan / "scene0011_00_vh_clean_2.labels.ply"
    broken.write_bytes(b"ply\nformat ascii 1.0\nend_header\n")
    with pytest.raises(SpatialBoostError, match="expected a PLY file with x, y, z and label of each vertex"):
        ViewScenes(open_views(f"scannet:{tmp_path}"), views=6, stride=1).has_labels()


def write_mesh(file, points: np.ndarray) -> None:
    """A mesh as ScanNet writes it: binary, with colours and the number of the class of each vertex."""
    kind = np.dtype(
        [*((axis, "<f4") for axis in "xyz"), *((each, "u1") for each in ("r", "g", "b", "a")), ("label", "<u2")]
    )
    vertices = np.zeros(len(points), kind)
    for axis, values in zip("xyz", points.T, strict=True):
        vertices[axis] = values
    vertices["label"] = np.array([1, 5, 13])[np.arange(len(points)) % 3]
    properties = [
        *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {each}" for each in ("red", "green", "blue", "alpha")),
        "property ushort label",
    ]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(points)}",
        *properties,
        "element face 1",
        "property list uchar int vertex_indices",
        "end_header",
        "",
    ]
    file.write_bytes("\n".join(header).encode() + vertices.tobytes() + b"\x03" + np.array([0, 1, 2], "<i4").tobytes())


def test_splits_are_scenes_and_a_boosted_encoder_runs(tmp_path) -> None:
    train, test = SceneSplits("rooms:6", train=0.5, test=0.34, views=4).open()
    assert (len(train), len(test)) == (3, 2) and test[0].source == "synthetic:4"
    torch.manual_seed(0)
    encoder = VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=2, num_classes=0)
    result = points_probe(boost(encoder), TRAIN[:2], TEST[:1], image_size=32, steps=5, voxel=0.1, rates=(0.01,))
    assert result.gain("miou").mean == 0 == result.gain("found").mean
    assert result.save(tmp_path)[0].name == "points.json"
    with pytest.raises(SpatialBoostError, match="voxel is 0"):
        PointsProbe(voxel=0)
