from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.camera import project, unproject
from spatialboost.scenes.cues import Cues, CuesError
from spatialboost.scenes.extract.pipeline import Extracted
from spatialboost.scenes.extract.protocol import PartialCues
from spatialboost.scenes.extract.reconstruction import MatchedPoses
from spatialboost.scenes.readers.rgbd import RGBDFolder
from spatialboost.scenes.rooms import Rooms
from tiny_networks import save_superglue

pytest.importorskip("pycolmap")


def without_pose(view: Cues, scale: float = 1.0) -> PartialCues:
    return replace(PartialCues.of(view), pose_44=None, depth_HW=(view.depth_HW * scale).astype(np.float32))


def pose_errors(found_44: np.ndarray, true_44: np.ndarray) -> tuple[float, float]:
    """Degrees and metres."""
    cosine = (np.trace(found_44[:3, :3].T @ true_44[:3, :3]) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))), float(np.linalg.norm((found_44 - true_44)[:3, 3]))


def true_matches(views, i: int, j: int, wrong: float, rng: np.random.Generator):
    """Points of view i and where view j sees them; some are wrong."""
    height, width = views[i].size
    places = rng.uniform(0, [width - 1, height - 1], (400, 2))
    column, row = np.floor(places + 0.5).astype(int).T
    places = np.stack([column, row], -1).astype(float)
    points = unproject(views[i].depth_HW, views[i].intrinsics_33)[row, column]
    change = np.linalg.inv(views[j].pose_44) @ views[i].pose_44
    seen = project(points @ change[:3, :3].T + change[:3, 3], views[j].intrinsics_33)
    inside = np.isfinite(seen).all(-1) & (seen > 0).all(-1) & (seen < [width - 1, height - 1]).all(-1)
    places, seen = places[inside], seen[inside]
    bad = rng.random(len(seen)) < wrong
    seen[bad] = rng.uniform(0, height, (bad.sum(), 2))
    return places, seen


@pytest.fixture(scope="module")
def room():
    return next(scene for scene in Rooms(6, size=96, views=3) if overlaps(scene.views))


def overlaps(views) -> bool:
    rng = np.random.default_rng(0)
    return all(len(true_matches(views, i, j, 0.0, rng)[0]) > 60 for i, j in ((0, 1), (0, 2), (1, 2)))


def test_poses_and_scales_come_back_exactly_from_points_with_outliers(room, monkeypatch):
    rng = np.random.default_rng(1)
    pairs = {pair: true_matches(room.views, *pair, 0.3, rng) for pair in ((0, 1), (0, 2), (1, 2))}
    monkeypatch.setattr(MatchedPoses, "match", lambda self, images: pairs)
    scales = (1.0, 1.3, 0.8)
    views = [without_pose(view, scale) for view, scale in zip(room.views, scales, strict=True)]
    found = MatchedPoses()(views)
    for view, addition, true_44 in zip(room.views, found, room.poses, strict=True):
        degrees, metres = pose_errors(addition["pose_44"], true_44)
        assert degrees < 0.3 and metres < 0.03
        ratio = np.nanmedian(addition["depth_HW"] / np.where(view.valid_HW, view.depth_HW, np.nan))
        assert ratio == pytest.approx(1.0, abs=0.02)
    factors = [addition["facts"]["reconstruction"]["scale"] for addition in found]
    assert factors == pytest.approx([1 / scale for scale in scales], rel=0.02)
    again = MatchedPoses()(views)
    assert all(np.array_equal(a["pose_44"], b["pose_44"]) for a, b in zip(found, again, strict=True))


def test_real_frames_get_their_poses(assets):
    frames = RGBDFolder(assets / "rgbd_room")
    true = [frames[number] for number in (0, 5, 10, 15)]
    # The estimators of depth are wrong by a factor of their own for each view
    source = [[without_pose(view, scale) for view, scale in zip(true, (1, 1.2, 0.9, 1.1), strict=True)]]
    scene = Extracted(source, [MatchedPoses()])[0]
    first = np.linalg.inv(true[0].pose_44)
    for view, found_44, was in zip(scene.views, scene.poses, true, strict=True):
        degrees, metres = pose_errors(found_44, first @ was.pose_44)
        assert degrees < 1.5 and metres < 0.08
        assert view.facts["reconstruction"]["points"] >= (15 if view is not scene.views[0] else 0)
        both = view.valid_HW & was.valid_HW
        assert np.median(view.depth_HW[both] / was.depth_HW[both]) == pytest.approx(1.05, abs=0.03)
    assert all(np.array_equal(view.image_HW3, was.image_HW3) for view, was in zip(scene.views, true, strict=True))


def test_views_without_anything_in_common_are_left_out():
    rng = np.random.default_rng(0)
    views = [
        PartialCues(
            rng.integers(0, 256, (60, 80, 3), dtype=np.uint8),
            f"view {number}",
            depth_HW=np.full((60, 80), 2.0, np.float32),
            intrinsics_33=np.array([[80.0, 0, 39.5], [0, 80.0, 29.5], [0, 0, 1]]),
        )
        for number in range(2)
    ]
    blank = replace(views[0], image_HW3=np.full((60, 80, 3), 90, np.uint8), source="blank")
    for pair in (views, [views[0], blank], [blank, blank]):
        with pytest.raises(CuesError, match=r"at most \d+ points agree with a pose .* expected at least 15"):
            MatchedPoses()(pair)
    with pytest.raises(CuesError, match="view 1: its depth is not known"):
        MatchedPoses()([views[0], replace(views[1], depth_HW=None)])


def test_known_poses_and_single_views_stay(room):
    views = [PartialCues.of(view) for view in room.views]
    assert MatchedPoses()(views) == [{}, {}, {}]
    assert MatchedPoses()([replace(views[0], pose_44=None)]) == [{}]


def test_a_network_matches_as_transformers_does(tmp_path):
    import torch
    from transformers import AutoImageProcessor, AutoModelForKeypointMatching

    save_superglue(tmp_path)
    images = [np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8) for seed in range(2)]
    extractor = MatchedPoses(matcher=str(tmp_path), device="cpu")
    ((here, there),) = extractor.match(images).values()
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    with torch.no_grad():
        outputs = AutoModelForKeypointMatching.from_pretrained(tmp_path).eval()(
            **processor(images, return_tensors="pt")
        )
    (direct,) = processor.post_process_keypoint_matching(outputs, [[(48, 64), (48, 64)]])
    assert np.array_equal(here, direct["keypoints0"].numpy()) and np.array_equal(there, direct["keypoints1"].numpy())
    assert len(here) > 0
    assert extractor.provenance["model"] == tmp_path.name


def test_too_few_points_are_refused():
    with pytest.raises(SpatialBoostError, match="least is 3; expected at least 6 points"):
        MatchedPoses(least=3)
