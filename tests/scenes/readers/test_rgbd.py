from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.camera import project, unproject
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.readers.rgbd import RGBDFolder
from spatialboost.scenes.rooms.render import look, render_views, sample_room

SIZE = (12, 16)
NAMES = ["frame2", "frame10", "frame11"]  # sorted by number, not alphabetically


@pytest.fixture
def walk(tmp_path):
    """Three frames. Frame n has the grey value 10 n, depth n metres, and a camera n metres to the right."""
    for name in ("rgb", "depth"):
        (tmp_path / name).mkdir()
    poses = []
    for number, name in enumerate(NAMES, 1):
        Image.fromarray(np.full((*SIZE, 3), 10 * number, np.uint8)).save(tmp_path / "rgb" / f"{name}.png")
        depth = np.full(SIZE, 1000 * number, np.uint16)
        depth[0] = 0
        Image.fromarray(depth).save(tmp_path / "depth" / f"{name}.png")
        pose = np.eye(4)
        pose[0, 3] = number
        poses.append(pose.ravel())
    np.savetxt(tmp_path / "poses.txt", poses)
    np.savetxt(tmp_path / "intrinsics.txt", [[20.0, 0, 7.5], [0, 21.0, 5.5], [0, 0, 1]])
    return tmp_path


def test_frames_are_what_the_files_hold(walk):
    frames = RGBDFolder(walk, depth_noise=0.03)
    assert (len(frames), frames.names, frames.name) == (3, NAMES, walk.name)
    assert [int(cues.image_HW3[0, 0, 0]) for cues in frames] == [10, 20, 30]
    cues = frames[1]
    assert (cues.source, cues.depth_noise, cues.objects) == (f"{walk.name}/frame10", 0.03, ())
    assert cues.depth_HW.dtype == np.float32
    assert not cues.valid_HW[0].any()
    assert (cues.depth_HW[1:] == 2.0).all()
    assert cues.intrinsics_33.tolist() == [[20.0, 0, 7.5], [0, 21.0, 5.5], [0, 0, 1]]
    assert cues.pose_44[0, 3] == 2.0
    assert frames[-1].source.endswith("frame11")


@pytest.mark.parametrize("index", [3, -4])
def test_there_is_no_frame_beyond_the_last(walk, index):
    with pytest.raises(IndexError, match=f"frame {index} of 3"):
        RGBDFolder(walk)[index]


def test_what_is_handed_out_is_the_callers_own(walk):
    frames = RGBDFolder(walk)
    frames[0].pose_44[:] = 0
    frames[0].intrinsics_33[:] = 0
    assert frames[0].pose_44[0, 3] == 1.0
    assert frames[0].intrinsics_33[0, 0] == 20.0


def test_resized_frames_see_the_same_points(walk):
    cues = RGBDFolder(walk, size=6)[0]
    assert cues.size == (6, 8)
    assert set(np.unique(cues.depth_HW)) <= {np.float32(0), np.float32(1)}  # no interpolated values
    large = RGBDFolder(walk)[0]
    middle = unproject(large.depth_HW, large.intrinsics_33)[4:6, 4:6].mean((0, 1))
    np.testing.assert_allclose(project(middle, cues.intrinsics_33), [2, 2], atol=1e-9)
    assert RGBDFolder(walk, size=(5, 9))[0].size == (5, 9)


def test_nothing_is_decoded_before_it_is_asked_for(walk):
    for folder in ("rgb", "depth"):
        for file in (walk / folder).iterdir():
            file.write_bytes(b"")
    assert len(RGBDFolder(walk)) == 3


def test_poses_may_be_unknown(walk):
    (walk / "poses.txt").unlink()
    assert RGBDFolder(walk)[0].pose_44 is None


def test_other_files_and_grey_images_do_not_matter(walk):
    for name in ("Thumbs.db", "._frame2.png", ".hidden.jpg", ".ipynb_checkpoints/frame2-checkpoint.png"):
        (walk / "rgb" / name).parent.mkdir(exist_ok=True)
        (walk / "rgb" / name).write_bytes(b"x")
    Image.fromarray(np.full(SIZE, 77, np.uint8)).save(walk / "rgb" / "frame2.png")
    assert (RGBDFolder(walk)[0].image_HW3 == 77).all()
    assert len(RGBDFolder(walk)) == 3


def spoil_image(walk):
    (walk / "rgb" / "frame10.png").write_bytes(b"no image")


def cut_image(walk):
    file = walk / "rgb" / "frame10.png"
    file.write_bytes(file.read_bytes()[:45])


def empty_image(walk):
    (walk / "rgb" / "frame10.png").write_bytes(b"")


def depth_as_image(walk):
    (walk / "rgb" / "frame10.png").write_bytes((walk / "depth" / "frame10.png").read_bytes())


def spoil_depth(walk):
    (walk / "depth" / "frame10.png").write_bytes(b"\x89PNG\r\n\x1a\nxxxx")


def remove_depth(walk):
    (walk / "depth" / "frame10.png").unlink()


def resize_depth(walk):
    Image.fromarray(np.ones((5, 7), np.uint16)).save(walk / "depth" / "frame10.png")


def empty_depth(walk):
    Image.fromarray(np.zeros(SIZE, np.uint16)).save(walk / "depth" / "frame10.png")


def eight_bit_depth(walk):
    Image.fromarray(np.ones(SIZE, np.uint8)).save(walk / "depth" / "frame10.png")


def lose_pose(walk):
    lines = (walk / "poses.txt").read_text().splitlines()
    lines[1] = " ".join(["nan"] * 16)
    (walk / "poses.txt").write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_image, r"image rgb/frame10.png of 8 bytes cannot be decoded .* replace"),
        (cut_image, "image rgb/frame10.png of 45 bytes cannot be decoded"),
        (empty_image, "of 0 bytes cannot be decoded"),
        (depth_as_image, "has mode I.*, expected colours"),
        (spoil_depth, "depth map depth/frame10.png of 12 bytes cannot be decoded"),
        (remove_depth, "depth/frame10.png is missing; add it or remove the image"),
        (resize_depth, r"depth map is \(5, 7\) but the image is \(12, 16\)"),
        (empty_depth, "no pixel has a valid depth"),
        (eight_bit_depth, "mode L, expected one channel of 16 bit"),
        (lose_pose, "finite 4x4 camera-to-world"),
    ],
)
def test_a_bad_frame_is_named_and_costs_no_other(walk, spoil, message):
    spoil(walk)
    frames = RGBDFolder(walk)
    with pytest.raises(CuesError, match=message) as caught:
        frames[1]
    assert str(caught.value).startswith(f"{walk.name}/frame10: ")
    assert frames[0].depth_HW[1, 0] == 1.0
    assert frames[2].depth_HW[1, 0] == 3.0


def test_intrinsics_of_other_pixels_are_noticed(walk):
    np.savetxt(walk / "intrinsics.txt", [[200.0, 0, 75.5], [0, 210.0, 55.5], [0, 0, 1]])
    with pytest.raises(SpatialBoostError, match=r"principal point .* \(75.5, 55.5\), outside of the image of 16x12"):
        RGBDFolder(walk)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("intrinsics.txt", None, r"intrinsics.txt is missing; expected the 3x3 camera matrix"),
        ("intrinsics.txt", "", "rows of"),
        ("intrinsics.txt", "1 0 0\n0 1 0\n", r"rows of \[3, 3\] numbers"),
        ("intrinsics.txt", "1 0 0\n0 1 0\n0 0\n", r"rows of \[3, 3, 2\] numbers"),
        ("intrinsics.txt", "-5 0 3\n0 5 3\n0 0 1", "not positive"),
        ("intrinsics.txt", "nan 0 3\n0 5 3\n0 0 1", "not positive"),
        ("intrinsics.txt", "5 0 3\n0 5 3\n0 1 1", "is not a camera matrix"),
        ("intrinsics.txt", "fx 0 3\n0 5 3\n0 0 1", "cannot be read as numbers .*'fx'"),
        ("poses.txt", "1 2 3\n" * 3, "line 1 has 3 numbers; expected for each image one line of 16"),
        ("poses.txt", "0 " * 16 + "\n", "has 1 lines but rgb/ has 3 images"),
        ("poses.txt", "", "has 0 lines but rgb/ has 3 images"),
        ("poses.txt", "x", "cannot be read as numbers"),
    ],
)
def test_mistakes_of_the_folder(walk, file, text, message):
    if text is None:
        (walk / file).unlink()
    else:
        (walk / file).write_text(text)
    with pytest.raises(SpatialBoostError, match=message):
        RGBDFolder(walk)


def test_more_mistakes_of_the_folder(walk, tmp_path):
    with pytest.raises(SpatialBoostError, match=r"nowhere is not a folder; expected a folder with rgb/"):
        RGBDFolder(tmp_path / "nowhere")
    with pytest.raises(SpatialBoostError, match=r"rgb has no folder rgb/"):
        RGBDFolder(walk / "rgb")
    with pytest.raises(SpatialBoostError, match="at least one pixel"):
        RGBDFolder(walk, size=0)
    with pytest.raises(SpatialBoostError, match="depth_noise is -1"):
        RGBDFolder(walk, depth_noise=-1)
    Image.new("RGB", SIZE[::-1]).save(walk / "rgb" / "frame2.jpg")
    with pytest.raises(SpatialBoostError, match=r"frame2\.png and an image of the same name with another ending"):
        RGBDFolder(walk)
    (walk / "depth").rename(walk / "depths")
    (walk / "rgb" / "frame2.jpg").unlink()
    with pytest.raises(SpatialBoostError, match="has no folder depth/"):
        RGBDFolder(walk)
    for image in (walk / "rgb").iterdir():
        image.unlink()
    with pytest.raises(SpatialBoostError, match=r"has no image; expected files that end in \.jpg"):
        RGBDFolder(walk)


def test_depth_and_poses_of_real_frames_agree(assets):
    frames = RGBDFolder(assets / "rgbd_room")
    here, there = frames[10], frames[16]
    points = unproject(here.depth_HW, here.intrinsics_33)[here.valid_HW]
    world = points @ here.pose_44[:3, :3].T + here.pose_44[:3, 3]
    seen = (world - there.pose_44[:3, 3]) @ there.pose_44[:3, :3]
    pixels = np.round(project(seen, there.intrinsics_33))
    inside = ((pixels >= 0) & (pixels < there.size[::-1])).all(-1)
    column, row = pixels[inside].astype(int).T
    read = there.valid_HW[row, column]
    error = np.abs(there.depth_HW[row, column] / seen[inside, 2] - 1)[read]
    assert read.sum() > 50_000
    assert np.median(error) < 0.005


# --- depth that is no reading, and depth, intrinsics and poses that do not fit together


def rewrite_depth(walk, change):
    for file in (walk / "depth").iterdir():
        Image.fromarray(change(np.asarray(Image.open(file)).astype(np.float64)).astype(np.uint16)).save(file)


def test_the_largest_value_is_no_reading(walk):
    def mark(depth):
        depth[:6] = 65535
        return depth

    rewrite_depth(walk, mark)
    cues = RGBDFolder(walk)[1]
    assert not cues.valid_HW[:6].any()
    assert (cues.depth_HW[:6] == 0).all() and (cues.depth_HW[6:] == 2.0).all()
    rewrite_depth(walk, lambda depth: np.full_like(depth, 65535))
    with pytest.raises(CuesError, match="no pixel has a valid depth"):
        RGBDFolder(walk)[1]


@pytest.mark.parametrize("factor", [5.0, 0.256, 10.0, 0.1, 0.001])
def test_depth_at_another_scale_is_a_question_and_not_taken_for_millimetres(walk, factor):
    (walk / "poses.txt").unlink()
    rewrite_depth(walk, lambda depth: np.rint(depth * factor))
    with pytest.raises(SpatialBoostError, match=r"read as millimetres, depth is .* m, half of it beyond .*unusual"):
        RGBDFolder(walk)
    (walk / "depth_scale.txt").write_text(f"{1000 * factor:g}\n")
    np.testing.assert_allclose(RGBDFolder(walk)[1].depth_HW[1:], 2.0)


def test_a_scale_that_the_folder_gives_is_believed_unless_it_cannot_be(walk, caplog):
    rewrite_depth(walk, lambda depth: depth * 5)
    (walk / "depth_scale.txt").write_text("1000")
    assert (RGBDFolder(walk)[1].depth_HW[1:] == 10).all()
    assert "at 1000 values per metre, depth is 5 to 15 m" in caplog.text
    (walk / "depth_scale.txt").write_text("1")
    with pytest.raises(SpatialBoostError, match=r"at 1 values per metre, depth is .* cannot be right"):
        RGBDFolder(walk)
    for wrong in ("", "x", "0", "-5", "nan", "inf", "1000 1000"):
        (walk / "depth_scale.txt").write_text(wrong)
        with pytest.raises(SpatialBoostError, match=r"depth_scale.txt .*expected one number"):
            RGBDFolder(walk)


@pytest.mark.parametrize(("stored", "said"), [(5000, None), (256, None), (4000, None), (5000, 4000), (256, 1000)])
def test_depth_and_poses_tell_the_scale(assets, tmp_path, stored, said):
    """Without poses, the depth of this walk at 256 values per metre could be that of another walk in millimetres."""
    frames = assets / "rgbd_room"
    for name in ("rgb", "depth"):
        (tmp_path / name).mkdir()
    files = sorted((frames / "rgb").iterdir())[:60]
    for file in files:
        (tmp_path / "rgb" / file.name).symlink_to(file)
        depth = np.asarray(Image.open(frames / "depth" / f"{file.stem}.png")) * (stored / 1000)
        image = Image.fromarray(np.minimum(np.rint(depth), 65534).astype(np.uint16))
        image.save(tmp_path / "depth" / f"{file.stem}.png", compress_level=1)
    (tmp_path / "intrinsics.txt").write_text((frames / "intrinsics.txt").read_text())
    lines = (frames / "poses.txt").read_text().splitlines()
    (tmp_path / "poses.txt").write_text("\n".join(lines[: len(files)]))
    if said:
        (tmp_path / "depth_scale.txt").write_text(str(said))
    with pytest.raises(SpatialBoostError, match=rf"Write {stored} into .*depth_scale.txt|unusual"):
        RGBDFolder(tmp_path)
    (tmp_path / "depth_scale.txt").write_text(str(stored))
    cues = RGBDFolder(tmp_path)[0]
    assert np.median(cues.depth_HW[cues.valid_HW]) == pytest.approx(1.47, abs=0.02)


@pytest.mark.parametrize("stored", [256, 4000])
def test_depth_and_poses_of_rooms_tell_the_scale(tmp_path, stored):
    """Depth of a large room divided by four, or of a small one times four, is usual; only the poses disagree."""
    poses = [look((0.3 * step - 0.6, -1.4, -1.2), yaw=0.1, pitch=0.2) for step in range(5)]
    views = render_views(sample_room(3), poses, size=(60, 80))
    for name in ("rgb", "depth"):
        (tmp_path / name).mkdir()
    metres = 3.0 if stored == 256 else 1.0
    stretch = metres / np.median(views[0].depth_HW)  # the room, seen as if it were this far away
    for number, view in enumerate(views):
        Image.fromarray(view.image_HW3).save(tmp_path / "rgb" / f"{number}.png")
        depth = np.rint(view.depth_HW * stretch * stored).astype(np.uint16)
        Image.fromarray(depth).save(tmp_path / "depth" / f"{number}.png")
    scaling = np.array([[1, 1, 1, stretch]] * 3 + [[1, 1, 1, 1]])
    np.savetxt(tmp_path / "poses.txt", [(view.pose_44 * scaling).ravel() for view in views])
    np.savetxt(tmp_path / "intrinsics.txt", views[0].intrinsics_33)
    with pytest.raises(SpatialBoostError, match=rf"at 1000 values per metre, .* disagree .*Write {stored} into"):
        RGBDFolder(tmp_path)
    (tmp_path / "depth_scale.txt").write_text(str(stored))
    assert len(RGBDFolder(tmp_path)) == 5


@pytest.mark.parametrize("factor", [0.5, 0.25, 0.75, 1.5, 2.0])
def test_intrinsics_of_another_resolution_are_refused(walk, factor):
    matrix = np.array([[20.0, 0, 8], [0, 21.0, 6], [0, 0, 1]])
    matrix[:2] *= factor
    matrix[:2, 2] -= 0.5
    np.savetxt(walk / "intrinsics.txt", matrix)
    with pytest.raises(SpatialBoostError, match=r"of intrinsics.txt is .* the image of 16x12 pixels; .* rescale them"):
        RGBDFolder(walk)


def test_intrinsics_may_say_for_which_images_they_are(walk, caplog):
    matrix = "20 0 3.5\n0 21 2.5\n0 0 1\n"
    (walk / "intrinsics.txt").write_text(matrix + "16 12")  # images cut from larger ones
    assert RGBDFolder(walk)[0].intrinsics_33[0, 2] == 3.5
    (walk / "intrinsics.txt").write_text("10 0 3.5\n0 10.5 2.5\n0 0 1\n8 6")  # before the images were enlarged
    np.testing.assert_allclose(RGBDFolder(walk)[0].intrinsics_33, [[20.0, 0, 7.5], [0, 21.0, 5.5], [0, 0, 1]])
    assert "intrinsics.txt is for images of 8x6 pixels; it is rescaled to the images of 16x12" in caplog.text
    (walk / "intrinsics.txt").write_text(matrix + "16 16")
    with pytest.raises(
        SpatialBoostError, match=r"is for images of 16x16 pixels, this image has 16x12, which is another"
    ):
        RGBDFolder(walk)
    for wrong in ("8.5 6", "0 12", "16", "nan 12"):
        (walk / "intrinsics.txt").write_text(matrix + wrong)
        with pytest.raises(SpatialBoostError, match=r"intrinsics.txt has"):
            RGBDFolder(walk)


@pytest.mark.parametrize(
    "matrix", ["1e300 0 7.5\n0 1e300 5.5", "1 0 7.5\n0 1 5.5", "20 0 7.5\n0 60 5.5", "20 9 7.5\n0 20 5.5"]
)
def test_focal_lengths_that_no_camera_has_are_refused(walk, matrix):
    (walk / "intrinsics.txt").write_text(matrix + "\n0 0 1")
    with pytest.raises(SpatialBoostError, match=r"focal lengths of intrinsics.txt are .* which no camera has"):
        RGBDFolder(walk)


@pytest.mark.parametrize("name", ["poses.txt", "depth_scale.txt"])
def test_a_folder_in_place_of_a_file_is_not_passed_over(walk, name):
    (walk / name).unlink(missing_ok=True)
    (walk / name).mkdir()
    with pytest.raises(SpatialBoostError, match=f"{name} is not a file"):
        RGBDFolder(walk)


def test_one_image_of_another_size_costs_no_other(walk):
    Image.new("RGB", (32, 24)).save(walk / "rgb" / "frame10.png")
    frames = RGBDFolder(walk)
    with pytest.raises(CuesError, match=r"frame10: the principal point .* far from the middle"):
        frames[1]
    assert frames[0].size == SIZE
