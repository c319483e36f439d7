"""Pairs of the public lists, against the rendered walk whose frames they name."""

import numpy as np
import pytest
from timm.models.vision_transformer import VisionTransformer

from pair_writers import write_navi, write_scannet_1500, write_superglue
from rendered_walk import assert_frame, pose
from spatialboost.errors import SpatialBoostError
from spatialboost.probes.matches import matches_probe
from spatialboost.probes.pair_lists import ListedPairs
from spatialboost.probes.pose import pose_probe
from spatialboost.scenes.cues import Cues, CuesError

PAIRS = [(0, 3), (1, 5), (2, 3)]


def tiny_vit() -> VisionTransformer:
    return VisionTransformer(img_size=48, patch_size=8, embed_dim=48, depth=1, num_heads=2, num_classes=0)


def assert_motion(scene, pair: tuple[int, int]) -> None:
    truth = np.linalg.inv(pose(pair[0])) @ pose(pair[1])
    np.testing.assert_allclose(scene.poses[1], truth, atol=2e-5)


def test_superglue_lines_with_frames_as_the_list_names_them(tmp_path) -> None:
    pairs = ListedPairs(tmp_path, write_superglue(tmp_path, PAIRS))
    assert len(pairs) == 3 and pairs.has_depth and pairs.names[0].endswith("frame-000003.color.jpg")
    for pair, scene in zip(PAIRS, pairs, strict=True):
        assert_motion(scene, pair)
        view = scene.views[0]
        assert view.size == (60, 80) and np.median(view.depth_HW[view.valid_HW]) > 0.5
        # the matrix of the colour images, made smaller to the size of the depth maps
        assert view.intrinsics_33[0, 0] == pytest.approx(146.0 * 80 / 162)


def test_superglue_lines_with_exported_frames(tmp_path) -> None:
    file = write_superglue(tmp_path / "lists", PAIRS)
    write_scannet_1500(tmp_path / "scans_test", PAIRS)
    pairs = ListedPairs(tmp_path, file)  # scans_test/scene0707_00/color/0.jpg
    assert pairs.has_depth and pairs[1].views[0].size == (60, 80)


@pytest.mark.parametrize("intrinsics", [True, False])
def test_scannet_1500(tmp_path, intrinsics: bool) -> None:
    pairs = ListedPairs(tmp_path, write_scannet_1500(tmp_path, PAIRS, intrinsics=intrinsics))
    for pair, scene in zip(PAIRS, pairs, strict=True):
        assert_motion(scene, pair)
        for index, view in zip(pair, scene.views, strict=True):
            assert_frame(view, index)


def test_navi(tmp_path) -> None:
    pairs = ListedPairs(tmp_path, write_navi(tmp_path, PAIRS))
    for pair, scene in zip(PAIRS, pairs, strict=True):
        assert_motion(scene, pair)
        for index, view in zip(pair, scene.views, strict=True):
            assert isinstance(view, Cues) and not view.valid_HW[:3].any()
            assert_frame(view, index)


def test_without_depth_poses_are_measured_and_matches_are_not(tmp_path) -> None:
    pairs = ListedPairs(tmp_path, write_superglue(tmp_path, PAIRS, depth=False))
    assert not pairs.has_depth
    result = pose_probe({"mine": tiny_vit()}, pairs, image_size=48)
    assert result.settings["pairs"] == 3
    with pytest.raises(SpatialBoostError, match=r"no depth maps.*measure `pose`, which needs none"):
        matches_probe({"mine": tiny_vit()}, pairs, image_size=48)
    with pytest.raises(SpatialBoostError, match="depth is asked for"):
        pose_probe({"mine": tiny_vit()}, pairs, image_size=48, depth=True)


def test_matches_are_measured_on_a_list(tmp_path) -> None:
    result = matches_probe({"mine": tiny_vit()}, ListedPairs(tmp_path, write_navi(tmp_path, PAIRS)), image_size=48)
    assert result.settings["pairs measured"] == 3


def test_a_missing_frame_costs_only_its_pair(tmp_path) -> None:
    file = write_scannet_1500(tmp_path, PAIRS)
    (tmp_path / "scene0707_00" / "color" / "5.jpg").unlink()
    result = pose_probe({"mine": tiny_vit()}, ListedPairs(tmp_path, file), image_size=48)
    assert result.settings["pairs"] == 2 and len(result.settings["left out"]) == 1
    assert "scene0707_00/1 5" in result.settings["left out"][0]


def test_turned_images_and_broken_annotations_are_named(tmp_path) -> None:
    pairs = ListedPairs(tmp_path, write_superglue(tmp_path, PAIRS, turn=1))
    with pytest.raises(CuesError, match=r"turned by EXIF \[1, 0\]"):
        pairs[0]
    pairs = ListedPairs(tmp_path / "navi", write_navi(tmp_path / "navi", PAIRS))
    next((tmp_path / "navi").rglob("annotations.json")).write_text("[]")
    with pytest.raises(CuesError, match=r"has no camera for 000.jpg"):
        pairs[0]


def test_lists_that_are_none(tmp_path) -> None:
    with pytest.raises(SpatialBoostError, match="is not a folder; expected that of the images"):
        ListedPairs(tmp_path / "nowhere", tmp_path / "list.txt")
    with pytest.raises(SpatialBoostError, match="is not a file; expected lines of SuperGlue"):
        ListedPairs(tmp_path, tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("a.jpg b.jpg 12\na.jpg b.jpg\n")
    with pytest.raises(SpatialBoostError, match=r"lines of \[2, 3\] words, the first such line is 2"):
        ListedPairs(tmp_path, tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("a.jpg b.jpg 0 0 " + "x " * 34 + "\n")
    with pytest.raises(SpatialBoostError, match="line 1"):
        ListedPairs(tmp_path, tmp_path / "list.txt")
    (tmp_path / "test.npz").write_bytes(b"broken")
    with pytest.raises(SpatialBoostError, match=r"test.npz cannot be read"):
        ListedPairs(tmp_path, tmp_path / "test.npz")
    np.savez(tmp_path / "test.npz", name=np.zeros((3, 2), int))
    with pytest.raises(SpatialBoostError, match=r"name is \(3, 2\)"):
        ListedPairs(tmp_path, tmp_path / "test.npz")
