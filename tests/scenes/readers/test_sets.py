"""Each public set in its own layout: written from a rendered room with known truth, and read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from rendered_walk import (
    NUM,
    assert_frame,
    assert_up,
    matrix,
    pose,
    shot,
    thing_masks,
)
from set_writers import FULL, SMALL, WRITERS, save, small, stored, words, write_labeled
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.camera import rescale_intrinsics
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.data_command import app
from spatialboost.scenes.extract.gravity import up_in_camera
from spatialboost.scenes.extract.protocol import PartialCues
from spatialboost.scenes.readers.options import ReaderOptions
from spatialboost.scenes.source_registry import SourceOptions, default_extractors, open_source


def opened(name: str, folder: Path, **options):
    WRITERS[name](folder)
    return open_source(name, SourceOptions(path=folder, reader=ReaderOptions(**options)))


def up_of(source, index: int):
    """The direction "up" of a view; as long as views have no field for it, what its recording says."""
    view = source[index]
    if hasattr(view, "up_3"):
        return view.up_3
    frames, place = [(frames, place) for frames in source.source.sources for place in range(len(frames))][index]
    own = frames._frame(place, "view").up_3
    return own if own is not None else up_in_camera(frames._world_up, view.pose_44)


# --- what is read


@pytest.mark.parametrize(
    ("name", "numbers", "first"),
    [
        ("tum", [0, 1, 3, 4, 5], "rgbd_dataset_freiburg1_room/1305031102.175304"),
        ("7scenes", range(NUM), "chess/seq-01/000000"),
        ("scannet", range(NUM), "scans/scene0011_00/0"),
        ("scannetpp", range(NUM), "data/02455b3d20/iphone/frame_000000"),
        ("arkitscenes", range(NUM), "Training/47333462/47333462_frames/47333462_6845.287"),
    ],
)
def test_depth_intrinsics_and_poses_are_the_true_ones(tmp_path, name, numbers, first):
    source = opened(name, tmp_path)
    assert len(source) == len(numbers)
    assert source.names[0] == first
    for place, index in enumerate(numbers):
        # The depth camera of 7-Scenes sees less than the colour camera, and its world is that of the first camera
        assert_frame(source[place], index, share=0.75 if name == "7scenes" else 0.9)
        if name != "7scenes":
            assert_up(up_of(source, place), index)
    assert source[0].source == f"{tmp_path.name}/{first}"


@pytest.mark.parametrize(("name", "share"), [("nyu", 0.9), ("sunrgbd", 0.9), ("kitti", 0.15)])
def test_depth_and_intrinsics_of_sets_without_poses(tmp_path, name, share):
    source = opened(name, tmp_path)
    first = 1 if name == "kitti" else 0
    assert len(source) == NUM - first
    for place in range(len(source)):
        assert_frame(source[place], first + place, world_44=None, share=share)
    if name == "kitti":
        assert source[0].valid_HW.mean() < 0.25
    if name == "sunrgbd":
        assert_up(up_of(source, 2), 2)


def test_kittis_own_selection(tmp_path):
    size, matrix_33 = (38, 122), matrix(70.0, 70.0, 59.5, 18.1)
    for index in range(2):
        image, depth = shot(index, matrix_33, size)
        start = "2011_09_26_drive_0002_sync"
        save(tmp_path / "image" / f"{start}_image_{index:010d}_image_02.png", image)
        save(
            tmp_path / "groundtruth_depth" / f"{start}_groundtruth_depth_{index:010d}_image_02.png", stored(depth, 256)
        )
        (tmp_path / "intrinsics").mkdir(exist_ok=True)
        (tmp_path / "intrinsics" / f"{start}_image_{index:010d}_image_02.txt").write_text(words(matrix_33))
    source = open_source("kitti", SourceOptions(path=tmp_path))
    assert len(source) == 2
    assert_frame(source[1], 1, world_44=None)


@pytest.mark.parametrize("name", ["scannet", "sunrgbd"])
def test_names_and_masks_of_the_set(tmp_path, name):
    source = opened(name, tmp_path)
    assert source.has_objects
    cues = source[2]
    camera = matrix(66.0, 66.0, 40.2, 29.1) if name == "sunrgbd" else cues.intrinsics_33
    truth = thing_masks(2, camera, SMALL)
    found = {thing.description: thing.mask_HW for thing in cues.objects}
    assert len(found) >= 3 and found.keys() <= truth.keys()
    assert found.keys() == truth.keys() or name == "scannet"  # its masks have more pixels than the view
    for thing, mask in found.items():
        if name == "scannet":
            assert (mask & truth[thing]).sum() / (mask | truth[thing]).sum() > 0.75, thing
        else:
            assert (mask & truth[thing]).sum() > 0.5 * mask.sum(), thing


@pytest.mark.parametrize("name", ["mvimgnet", "dl3dv", "ego4d"])
def test_images_without_depth_wait_for_extractors(tmp_path, name):
    source = opened(name, tmp_path)
    assert len(source) == NUM
    assert not source.has_depth and not source.has_objects
    assert default_extractors(name, source) == ("depth-anything", "superpixels")
    words = ["build", "--source", name, "--path", str(tmp_path), "--out", str(tmp_path / "data")]
    result = CliRunner().invoke(app, [*words, "--extract", "superpixels"])
    assert "depth_HW is not known; add an extractor of the kind 'depth'" in str(result.exception)
    view = source[1]
    assert isinstance(view, PartialCues) and view.depth_HW is None
    truth = shot(1, matrix(66.0, 66.0, 39.5, 29.5) if name == "ego4d" else matrix(66.0, 66.0, 39.8, 29.6), SMALL)[0]
    assert np.abs(view.image_HW3.astype(int) - truth).mean() < 8
    if name != "ego4d":
        np.testing.assert_allclose(view.intrinsics_33, matrix(66.0, 66.0, 39.8, 29.6))
        assert view.pose_44 is None  # the unit of its poses is not known
        metric = open_source(name, SourceOptions(path=tmp_path, size=30, reader=ReaderOptions(pose_scale=0.5)))[1]
        np.testing.assert_allclose(metric.pose_44, pose(1), atol=1e-6)
        assert metric.image_HW3.shape == (30, 40, 3)
        np.testing.assert_allclose(metric.intrinsics_33, rescale_intrinsics(view.intrinsics_33, SMALL, (30, 40)))
    else:
        assert source.names[0] == "frames/0a1b/frame_0000000"
        assert view.intrinsics_33 is None


def test_a_colmap_folder_with_depth(tmp_path, caplog):
    source = opened("colmap", tmp_path, pose_scale=0.5)
    assert source.names[0] == "left side/000" and source.has_depth
    for index in range(NUM):
        assert_frame(source[index], index)
    unknown = open_source("colmap", SourceOptions(path=tmp_path))
    assert_frame(unknown[0], 0, world_44=None)
    assert "--pose-scale gives the metres per unit" in caplog.text


def test_cameras_of_colmap_that_no_matrix_describes(tmp_path):
    WRITERS["colmap"](tmp_path)
    cameras = tmp_path / "sparse" / "cameras.txt"
    for camera, said in (
        ("OPENCV_FISHEYE 80 60 66 66 40 30 0 0 0 0", "cannot describe"),
        (
            "SIMPLE_RADIAL 80 60 66 40 30 -0.3",
            r"\(SIMPLE_RADIAL\) distorts the image, .*% of the width.*image_undistorter",
        ),
        ("OPENCV 80 60 66 66 40 30 0.001 0.002 0 0", None),
        ("FULL_OPENCV 80 60 66 66 40 30 0 0 0 0 0 0 0 0", None),
    ):
        cameras.write_text(f"3 {camera}\n")
        source = open_source("colmap", SourceOptions(path=tmp_path))
        if said is None:
            np.testing.assert_allclose(source[0].intrinsics_33, matrix(66, 66, 39.5, 29.5))
        else:
            with pytest.raises(CuesError, match=said):
                source[0]


def test_the_labelled_file_of_nyu(tmp_path):
    pytest.importorskip("h5py")
    file = write_labeled(tmp_path)
    source = open_source("nyu-labeled", SourceOptions(path=file))
    assert len(source) == NUM and source.has_objects
    for index in (0, NUM - 1):
        cues = source[index]
        assert_frame(cues, index, world_44=None)
        assert not cues.valid_HW[:3].any()  # what the authors filled in is no reading
        truth = thing_masks(index, cues.intrinsics_33, SMALL)
        assert {thing.description for thing in cues.objects} == truth.keys()
        for thing in cues.objects:
            assert (thing.mask_HW == truth[thing.description]).all()
    assert source.names[:2] == ["0", "1"]
    below = open_source("nyu-labeled", SourceOptions(path=file, size=30, num=2))
    assert [below[place].size for place in range(2)] == [(30, 40)] * 2
    data = file.read_bytes()
    for spoiled in (data[:3000], b"MATLAB 5.0 MAT-file", b""):
        file.write_bytes(spoiled)
        with pytest.raises(SpatialBoostError, match=r"labeled.mat cannot be read .*expected nyu_depth_v2_labeled.mat"):
            open_source("nyu-labeled", SourceOptions(path=file))


# --- several recordings


def test_scenes_do_not_cross_from_one_recording_into_another(tmp_path, caplog):
    WRITERS["7scenes"](tmp_path)
    source = open_source("7scenes", SourceOptions(path=tmp_path, views=2, stride=2))
    assert len(source) == 2
    names = [[view.source for view in source[place].views] for place in range(2)]
    start = f"{tmp_path.name}/chess"
    assert names[0] == [f"{start}/seq-01/000000", f"{start}/seq-01/000002"]
    assert names[1] == [f"{start}/seq-02/000000", f"{start}/seq-02/000002"]
    assert source.name == f"7scenes {tmp_path.name} full size 2 views 2 apart"
    assert caplog.text.count("is for images of 640x480 pixels; it is rescaled") == 1  # not for each recording
    one = open_source("7scenes", SourceOptions(path=tmp_path / "chess" / "seq-02", num=2))
    assert one.names == ["000000", "000002"]


def test_a_bad_recording_is_named_and_costs_no_other(tmp_path, caplog):
    WRITERS["scannet"](tmp_path)
    good = tmp_path / "scans" / "scene0011_00"
    for name, spoil in (("scene0012_00", "missing"), ("scene0010_00", "scale")):
        bad = tmp_path / "scans" / name
        for folder in ("color", "depth", "pose"):
            (bad / folder).mkdir(parents=True)
            for file in (good / folder).iterdir():
                (bad / folder / file.name).write_bytes(file.read_bytes())
        if spoil == "scale":
            (bad / "intrinsic").mkdir()
            (bad / "intrinsic" / "intrinsic_color.txt").write_text(
                (good / "intrinsic" / "intrinsic_color.txt").read_text()
            )
            for file in (bad / "depth").iterdir():
                save(file, (np.asarray(Image.open(file)).astype(np.float64) * 5).astype(np.uint16))
    source = open_source("scannet", SourceOptions(path=tmp_path))
    assert len(source) == 2 * NUM + 1
    for place in range(NUM):
        with pytest.raises(CuesError, match=r"scene0010_00/\d+: .*scene0010_00: .*give --depth-scale 5000|unusual"):
            source[place]
        assert_frame(source[NUM + place], place)
    with pytest.raises(CuesError, match=r"^scans/scene0012_00: .*intrinsic_color.txt is missing"):
        source[2 * NUM]
    assert source.names[-1] == "scans/scene0012_00/all frames"


def test_one_bad_frame_costs_no_other(tmp_path):
    WRITERS["scannet"](tmp_path)
    scan = tmp_path / "scans" / "scene0011_00"
    (scan / "pose" / "0.txt").write_text("-inf " * 16)  # where ScanNet lost track
    (scan / "pose" / "10.txt").unlink()
    (scan / "pose" / "20.txt").write_text("1 2 3")
    (scan / "pose" / "30.txt").write_text(words(np.diag([2.0, 1, 1, 1])))
    (scan / "depth" / "40.png").write_bytes(b"")
    source = open_source("scannet", SourceOptions(path=tmp_path))
    for place, said in enumerate(
        ["finite 4x4", "10.txt is missing", "20.txt has 3 numbers", "not a rotation", "of 0 bytes"]
    ):
        with pytest.raises(CuesError, match=said):
            source[place]
    assert_frame(source[5], 5)


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_without_the_layout_says_what_is_expected(tmp_path, name):
    with pytest.raises(SpatialBoostError, match=rf"have no recording of --source {name}; expected a folder with "):
        open_source(name, SourceOptions(path=tmp_path))
    with pytest.raises(SpatialBoostError, match="is not a folder"):
        open_source(name, SourceOptions(path=tmp_path / "nowhere"))
    with pytest.raises(SpatialBoostError, match=f"--source {name} needs --path"):
        open_source(name, SourceOptions())


@pytest.mark.parametrize(
    ("name", "file", "text", "said"),
    [
        ("tum", "*/rgb.txt", "1.0 rgb/1.png\n2.0\n", r"rgb.txt, line 2 is '2.0'; expected lines with a time"),
        ("tum", "*/depth.txt", "5.0 depth/5.png", "no depth map is within 0.02 s of an image"),
        ("tum", "*/groundtruth.txt", "5.0 0 0 0 0 0 0 1", r"no pose is within 0.02 s .* its times are 5.000000"),
        ("scannetpp", "**/pose_intrinsic_imu.json", "[]", "pose_intrinsic_imu.json has another form"),
        ("scannetpp", "**/pose_intrinsic_imu.json", "{", "is not valid JSON"),
        ("scannetpp", "**/pose_intrinsic_imu.json", "{}", "has no entry with aligned_pose and intrinsic for it"),
        ("arkitscenes", "**/lowres_wide.traj", "1 2 3", "has lines of other lengths"),
        ("kitti", "*/calib_cam_to_cam.txt", "P_rect_03: 1", "has no line P_rect_02"),
        ("kitti", "*/calib_cam_to_cam.txt", "P_rect_02: 1 2", "line P_rect_02 has another form"),
        ("colmap", "sparse/cameras.txt", "3 PINHOLE 80 60 1", r"line 1 is not valid \(the camera PINHOLE"),
        ("colmap", "sparse/cameras.txt", "3 NEW 80 60 1", r"the camera 'NEW' is not known"),
        (
            "colmap",
            "sparse/cameras.txt",
            "9 PINHOLE 80 60 66 66 40 30",
            "camera of image left side/000.jpg is not among",
        ),
        ("colmap", "sparse/images.txt", "1 2 3", "images.txt, line 1 is not valid"),
        ("colmap", "sparse/images.txt", "# nothing", "has no registered image"),
        ("mvimgnet", "**/images.bin", "cut", "images.bin is cut off"),
        ("dl3dv", "*/transforms.json", "{", "is not valid JSON"),
        ("dl3dv", "*/transforms.json", '{"frames": [{"file_path": "a.png"}]}', r"another form \(KeyError.*expected "),
        ("dl3dv", "*/transforms.json", '{"frames": []}', "has no frame; expected"),
        (
            "dl3dv",
            "*/transforms.json",
            '{"w": 8, "h": 6, "fl_x": 9, "fl_y": 9, "cx": 4, "cy": 3, "frames": [{"file_path": "images/none.png", '
            '"transform_matrix": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}]}',
            "has no image none.png in images_4, images_8, images_2, images; expected the images beside",
        ),
    ],
)
def test_mistakes_of_a_recording(tmp_path, name, file, text, said):
    WRITERS[name](tmp_path)
    (found,) = tmp_path.glob(file)
    found.write_text(text)
    with pytest.raises(SpatialBoostError, match=said) as caught:
        open_source(name, SourceOptions(path=tmp_path))[0]
    assert "\n" not in str(caught.value)


SPOILERS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "nan": lambda data: b"nan " * 16,
    "text": lambda data: b"{}",
    "other numbers": lambda data: data.replace(b"0", b"9"),
    "huge numbers": lambda data: data.replace(b"1", b"1" * 400),
    "signs": lambda data: data.replace(b" ", b" -"),
    "bytes": lambda data: data.replace(b"0", b"\xff"),
    "without a line": lambda data: b"\n".join(data.split(b"\n")[1:]),
}


@pytest.mark.parametrize("name", WRITERS)
def test_whatever_a_file_contains_the_error_is_one_line(tmp_path, name):
    """One file of each kind is spoiled in every way; nothing but an error that says what to do may come."""
    WRITERS[name](tmp_path)
    kinds = {(file.suffix, file.parent.name): file for file in sorted(tmp_path.rglob("*")) if file.is_file()}
    texts = [file for (suffix, _), file in kinds.items() if suffix not in (".png", ".jpg")]
    for file in texts or list(kinds.values())[:1]:
        right = file.read_bytes()
        for spoiler, spoil in SPOILERS.items():
            file.write_bytes(spoil(right))
            try:
                source = open_source(name, SourceOptions(path=tmp_path))
                for place in range(len(source)):
                    try:
                        assert source[place].image_HW3.dtype == np.uint8
                    except CuesError as error:
                        assert "\n" not in str(error), (file, spoiler)
            except SpatialBoostError as error:
                assert not isinstance(error, CuesError) and "\n" not in str(error), (file, spoiler)
        file.write_bytes(right)
    assert len(open_source(name, SourceOptions(path=tmp_path))) >= 4


@pytest.mark.parametrize(("name", "option"), [("scannet", "images"), ("tum", "depths"), ("colmap", "associations")])
def test_an_option_that_a_layout_does_not_have_is_refused(tmp_path, name, option):
    with pytest.raises(SpatialBoostError, match=f"--{option} is not for --source {name}"):
        opened(name, tmp_path, **{option: "x/*"})


def test_options_change_what_a_set_says(tmp_path):
    WRITERS["tum"](tmp_path)
    (walk,) = tmp_path.iterdir()
    np.savetxt(tmp_path / "other.txt", [pose(index).ravel() for index in (0, 1, 3, 4, 5)])
    np.savetxt(tmp_path / "camera.txt", small(matrix(517.3, 516.5, 318.6, 255.3)))
    options = {"poses": str(tmp_path / "other.txt"), "intrinsics": str(tmp_path / "camera.txt"), "max_depth": 2.5}
    source = open_source("tum", SourceOptions(path=walk, reader=ReaderOptions(**options)))
    for place, index in enumerate((0, 1, 3, 4, 5)):
        assert_frame(source[place], index, share=0.05)
        assert source[place].depth_HW.max() <= 2.5


# --- true layouts


def test_true_frames_of_nyu_and_kitti(assets):
    demo = assets / "nyu_kitti_demo" / "data"
    if not demo.is_dir():
        pytest.skip("nyu_kitti_demo not found")
    frames = open_source("nyu", SourceOptions(path=demo))
    assert len(frames) == 3
    cues = frames[0]
    assert cues.size == FULL and cues.intrinsics_33[0, 0] == pytest.approx(518.8579, abs=1e-4)
    assert 0.7 < cues.valid_HW.mean() < 0.8 and 0.5 < np.median(cues.depth_HW[cues.valid_HW]) < 5
    options = ReaderOptions(depth_scale=256, intrinsics="707.0493 707.0493 604.0814 180.5066")
    drive = open_source("rgbd", SourceOptions(path=demo / "kitti_demo", reader=options))
    assert drive.names == ["0000000005", "0000000050", "0000000100"]
    assert 0.15 < drive[0].valid_HW.mean() < 0.25 and 5 < np.median(drive[0].depth_HW[drive[0].valid_HW]) < 40


def test_a_true_walk_with_a_trajectory_of_open3d(assets, tmp_path):
    room = assets / "icl_livingroom1"
    if not room.is_dir():
        pytest.skip("icl_livingroom1 not found")
    options = {"images": "image/*.jpg", "intrinsics": "525 525 319.5 239.5", "poses": "test_scene/trajectory.log"}
    frames = open_source("rgbd", SourceOptions(path=room, reader=ReaderOptions(**options)))
    assert len(frames) == 211
    assert frames[0].pose_44.tolist() == np.eye(4).tolist()
    blocks = np.array([np.linalg.inv(frames[place].pose_44) for place in range(0, 211, 15)])
    log = [f"{n} {n} {n + 1}\n" + "\n".join(map(words, block)) for n, block in enumerate(blocks)]
    (tmp_path / "turned.log").write_text("\n".join(log))
    lines = [f"image/{n:05d}.jpg depth/{n:05d}.png" for n in range(0, 211, 15)]
    (tmp_path / "frames.txt").write_text("\n".join(lines))
    turned = {**options, "poses": str(tmp_path / "turned.log"), "associations": str(tmp_path / "frames.txt")}
    with pytest.raises(SpatialBoostError, match=r"read as world-to-camera only by .*Give --pose-type world-to-camera"):
        open_source("rgbd", SourceOptions(path=room, reader=ReaderOptions(**turned)))
    right = open_source("rgbd", SourceOptions(path=room, reader=ReaderOptions(**turned, pose_type="world-to-camera")))
    np.testing.assert_allclose(right[2].pose_44, frames[30].pose_44, atol=1e-6)
