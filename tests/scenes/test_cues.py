from __future__ import annotations

import numpy as np
import pytest

from spatialboost.scenes.cues import Cues, CuesError, SceneObject

GOOD = {
    "image_HW3": np.zeros((4, 6, 3), np.uint8),
    "depth_HW": np.full((4, 6), 2.0, np.float32),
    "intrinsics_33": np.array([[5.0, 0, 2.5], [0, 5.0, 1.5], [0, 0, 1]]),
    "source": "walk/000007",
}


def test_valid_is_what_has_a_reading():
    depth = GOOD["depth_HW"].copy()
    depth[0, :5] = 0.0, np.nan, np.inf, -1.0, np.finfo(np.float32).max
    cues = Cues(**{**GOOD, "depth_HW": depth})
    assert cues.size == (4, 6)
    assert not cues.valid_HW[0, :5].any()
    assert cues.valid_HW.sum() == 19
    half = GOOD["depth_HW"].astype(np.float16)
    half[0] = np.finfo(np.float16).max
    assert Cues(**{**GOOD, "depth_HW": half}).valid_HW.sum() == 18


def test_a_given_mask_is_only_ever_narrowed():
    depth = GOOD["depth_HW"].copy()
    depth[0, 0] = 0.0
    given = np.zeros((4, 6), bool)
    given[0] = True
    assert Cues(**{**GOOD, "depth_HW": depth, "valid_HW": given}).valid_HW.sum() == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_HW3": np.zeros((4, 6), np.uint8)}, r"image is uint8 \(4, 6\), expected uint8"),
        ({"image_HW3": np.zeros((4, 6, 3), np.float32)}, "image is float32"),
        ({"image_HW3": np.zeros((0, 6, 3), np.uint8)}, r"\(0, 6, 3\)"),
        ({"depth_HW": np.ones((3, 6), np.float32)}, r"depth map is \(3, 6\) but the image is \(4, 6\); resize"),
        ({"depth_HW": np.full((4, 6), 2000, np.uint16)}, "depth map is uint16, expected float32 in metres"),
        ({"depth_HW": np.ones((4, 6), bool)}, "depth map is bool"),
        ({"depth_noise": float("nan")}, "depth_noise is nan"),
        ({"depth_noise": -0.1}, "depth_noise is -0.1"),
        ({"pose_44": np.zeros((4, 4))}, "is not a rotation and a translation"),
        ({"pose_44": np.diag([1.0, -1, 1, 1])}, "is not a rotation and a translation"),
        ({"pose_44": np.diag([2.0, 2, 2, 1])}, "is not a rotation and a translation"),
        ({"pose_44": np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 2, 3, 1.0]])}, "is not a rotation"),
        ({"intrinsics_33": None}, "expected a 3x3 matrix"),
        ({"intrinsics_33": np.eye(4)}, r"intrinsics are \(4, 4\)"),
        ({"intrinsics_33": np.diag([0.0, 5.0, 1.0])}, "focal lengths"),
        ({"intrinsics_33": np.diag([np.nan, 5.0, 1.0])}, "focal lengths"),
        ({"pose_44": np.eye(3)}, "camera-to-world"),
        ({"pose_44": np.full((4, 4), np.inf)}, "camera-to-world"),
        ({"depth_HW": np.zeros((4, 6), np.float32)}, "no pixel has a valid depth"),
        ({"valid_HW": np.zeros((4, 6), bool)}, "no pixel has a valid depth"),
        ({"objects": [SceneObject("red box", np.ones((4, 5), bool))]}, "mask of 'red box'"),
        ({"objects": [SceneObject("red box", np.ones((4, 6), np.uint8))]}, "expected bool"),
    ],
)
def test_mistakes_name_the_view(change, message):
    with pytest.raises(CuesError, match=message) as caught:
        Cues(**{**GOOD, **change})
    assert str(caught.value).startswith("walk/000007: ")
