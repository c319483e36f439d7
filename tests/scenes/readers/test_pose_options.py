"""Poses in all forms, of the folder and of options."""

from __future__ import annotations

import numpy as np
import pytest

from plain_walk import NAMES, assert_walk, numbers, opened
from rendered_walk import NUM, assert_frame, pose
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import CuesError


def quaternion(turn_33: np.ndarray) -> np.ndarray:
    w = np.sqrt(1 + np.trace(turn_33)) / 2
    x, y, z = turn_33[2, 1] - turn_33[1, 2], turn_33[0, 2] - turn_33[2, 0], turn_33[1, 0] - turn_33[0, 1]
    return np.array([x / (4 * w), y / (4 * w), z / (4 * w), w])


def seven(pose_44: np.ndarray) -> str:
    return numbers([*pose_44[:3, 3], *quaternion(pose_44[:3, :3])])


def test_forms_of_poses(room):
    truth = [pose(index) for index in range(NUM)]
    forms = {
        "4x4 with a comment, an empty line and commas": "# poses\n\n"
        + "\n".join(numbers(p).replace(" ", ", ") for p in truth),
        "3x4": "\n".join(numbers(p[:3]) for p in truth),
        "quaternions": "\n".join(map(seven, truth)),
        "quaternions of another length": "\n".join(numbers([*p[:3, 3], *3 * quaternion(p[:3, :3])]) for p in truth),
        "matrices below each other": "\n".join(numbers(row) for p in truth for row in p),
        "names": "\n".join(f"{name}.png {seven(p)}" for name, p in reversed(list(zip(NAMES, truth, strict=True)))),
        "names without ending, 3x4": "\n".join(
            f"{name},{numbers(p[:3])}".replace(" ", ",") for name, p in zip(NAMES, truth, strict=True)
        ),
    }
    for form, text in forms.items():
        (room / "poses.txt").write_text("\ufeff" + text, encoding="utf-8")
        frames = opened(room)
        np.testing.assert_allclose(frames[4].pose_44, truth[4], atol=1e-7, err_msg=form)
        assert_frame(frames[1], 1)


def test_poses_of_an_option(room, tmp_path):
    (room / "poses.txt").unlink()
    assert opened(room)[0].pose_44 is None
    one_each = tmp_path / "poses"
    one_each.mkdir()
    for index, name in enumerate(NAMES):
        np.savetxt(one_each / f"{name}.txt", pose(index))
    (one_each / "._000.txt").write_bytes(b"\0\5\x16\7")
    assert_walk(opened(room, poses=str(one_each)))
    (one_each / "002.txt").unlink()
    (one_each / "003.txt").write_text("1 2 3 4 5")
    frames = opened(room, poses=str(one_each))
    with pytest.raises(CuesError, match=r"002: it has no pose file in .*poses; add it or remove the image"):
        frames[2]
    with pytest.raises(CuesError, match=r"003.txt has 5 numbers; expected the 16"):
        frames[3]
    flip = np.diag([1.0, -1, -1, 1])
    for kind, turn in (("world-to-camera", np.linalg.inv), ("opengl", lambda p: p @ flip)):
        np.savetxt(tmp_path / "turned.txt", [turn(pose(index)).ravel() for index in range(NUM)])
        assert_walk(opened(room, poses=str(tmp_path / "turned.txt"), pose_type=kind))
        with pytest.raises(SpatialBoostError, match=rf"read as {kind} only by .*Give --pose-type {kind}"):
            opened(room, poses=str(tmp_path / "turned.txt"))
    np.savetxt(
        tmp_path / "feet.txt",
        [(pose(index) * np.where(np.eye(4)[3] == 1, 1 / 0.3048, 1)).ravel() for index in range(NUM)],
    )
    feet = np.loadtxt(tmp_path / "feet.txt")
    feet[:, 15] = 1
    np.savetxt(tmp_path / "feet.txt", feet)
    assert_walk(opened(room, poses=str(tmp_path / "feet.txt"), pose_scale=0.3048))


def test_poses_by_time(room):
    """Times come from the association file, or from the names of the images."""
    for file in [*(room / "rgb").iterdir(), *(room / "depth").iterdir()]:
        file.rename(file.with_name(f"{100 + int(file.stem) / 10:.6f}.png"))
    lines = [f"{100 + index / 10 + 0.004:.4f} {seven(pose(index))}" for index in range(NUM)]
    (room / "poses.txt").write_text("\n".join(lines[:2] + lines[3:]))
    lines = [f"{100 + index / 10:.6f} rgb/{100 + index / 10:.6f}.png" for index in range(NUM)]
    both = [f"{line} {line.replace('rgb', 'depth')}" for line in lines]
    (room / "pairs.txt").write_text("\n".join(both))
    frames = opened(room, associations="pairs.txt")
    assert_frame(frames[3], 3)
    assert frames[2].pose_44 is None  # no pose is near


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "5.0 0 0 0 0 0 0 1\n" * NUM,
            "begins its lines with '5.0', which is no image's name, and the images have no times",
        ),
        ("000 0 0 0 0 0 0 x", r"line 1 cannot be read as numbers"),
        ("1 2 3 4 5 6\n" * NUM, "line 1 has 6 numbers"),
        (b"\xff\xfe\x00", "is not a text file"),
        (b"\x89PNG\r\n\x1a\n\0\xff", "is not a text file"),
    ],
)
def test_poses_in_no_form(room, text, said):
    (room / "poses.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SpatialBoostError, match=said):
        opened(room)


def test_a_lost_or_bent_pose_costs_its_frame_only(room):
    lines = [seven(pose(index)) for index in range(NUM)]
    lines[1] = "0 0 0 0 0 0 0"
    (room / "poses.txt").write_text("\n".join(lines))
    frames = opened(room)
    with pytest.raises(CuesError, match=r"001: .*finite 4x4"):
        frames[1]
    bent = pose(2)
    bent[:3, :3] *= 1.1
    rows = [numbers(pose(index)) for index in range(NUM)]
    rows[2] = numbers(bent)
    (room / "poses.txt").write_text("\n".join(rows))
    with pytest.raises(CuesError, match=r"002: .*is not a rotation and a translation"):
        opened(room)[2]
    assert_frame(frames[3], 3)
