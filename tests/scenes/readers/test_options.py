"""A folder of RGB-D frames in the forms in which people write them, and what a user may say about it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from plain_walk import CAMERA, NAMES, SIZE, assert_walk, opened, rewrite_depth
from rendered_walk import NUM, TO_Z_UP, assert_frame, matrix, shot
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.readers.options import ReaderOptions
from spatialboost.scenes.source_registry import SourceOptions, open_source


@pytest.mark.parametrize(
    "text",
    [
        "66 0 39.8 0\n0 66.5 29.6 0\n0 0 1 0\n0 0 0 1\n",
        "# from the calibration\n66 66.5 39.8 29.6  # pixels\n",
        "\ufefffx = 66\n".replace("fx = 66", "66, 66.5, 39.8, 29.6"),
        "[[66, 0, 39.8],\n [0, 66.5, 29.6],\n [0, 0, 1]]",
        "66;66.5;39.8;29.6\r\n\r\n80;60\r\n",
        "66 0 39.8 0 66.5 29.6 0 0 1",
        "66 0 39.8 0\n0 66.5 29.6 0\n0 0 1 0\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_forms_of_intrinsics(room, text, encoding):
    (room / "intrinsics.txt").write_text(text, encoding=encoding)
    frames = opened(room)
    np.testing.assert_allclose(frames[0].intrinsics_33, CAMERA)
    assert_frame(frames[2], 2)


def test_intrinsics_of_an_option(room, tmp_path, caplog):
    (room / "intrinsics.txt").unlink()
    assert_walk(opened(room, intrinsics="66 66.5 39.8 29.6"))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert_walk(opened(room, intrinsics="132, 133, 80.1, 59.7, 160, 120"))
    assert "is for images of 160x120 pixels; it is rescaled to the images of 80x60" in caplog.text
    (tmp_path / "camera.txt").write_text("66 66.5 39.8 29.6")
    assert_walk(opened(room, intrinsics=str(tmp_path / "camera.txt")))
    (room / "camera.txt").write_text("66 66.5 39.8 29.6")
    assert_walk(opened(room, intrinsics="camera.txt"))
    for wrong, said in (
        ("132 133 80.1 59.7", "principal point of intrinsics '132 133 80.1 59.7' .* outside of"),
        ("105 106 64 47.7", "far from the middle of the image of 80x60 pixels; .*WIDTH HEIGHT"),
        ("66 66.5 39.8", "expected 'fx fy cx cy'"),
        ("66 66.5 39.8 29.6 80 80", "is for images of 80x80 pixels, this image has 80x60, which is another aspect"),
        ("nowhere.txt", "neither .*nowhere.txt nor such a file in the working directory exists"),
    ):
        with pytest.raises(SpatialBoostError, match=said):
            opened(room, intrinsics=wrong)


def test_a_principal_point_beside_the_middle_is_a_warning_that_names_the_option(room, caplog):
    """Images cut at one side; on both axes in the same direction, it would be another resolution."""
    camera = matrix(66.0, 66.5, 20.0, 29.6)
    for index, name in enumerate(NAMES):
        image, depth = shot(index, camera, SIZE)
        Image.fromarray(image).save(room / "rgb" / f"{name}.png")
        Image.fromarray(np.rint(depth * 1000).astype(np.uint16)).save(room / "depth" / f"{name}.png")
    np.savetxt(room / "intrinsics.txt", camera)
    assert_walk(opened(room))
    assert "is 24% of the width and 0% of the height away from the middle" in caplog.text
    assert "--intrinsics 'fx fy cx cy'" in caplog.text
    caplog.clear()
    with (room / "intrinsics.txt").open("a") as file:
        file.write("80 60\n")
    assert_walk(opened(room))
    assert "middle" not in caplog.text


# --- depth maps


def test_forms_of_depth(room):
    def save(values, file):
        Image.fromarray(values).save(file)

    forms: dict[str, tuple[Callable, dict]] = {
        "npy in metres": (lambda d, f: np.save(f.with_suffix(".npy"), d.astype(np.float32)), {}),
        "npy in millimetres": (lambda d, f: np.save(f.with_suffix(".npy"), np.rint(d * 1000).astype(np.uint16)), {}),
        "npy with a channel": (lambda d, f: np.save(f.with_suffix(".npy"), d[..., None]), {}),
        "npy in centimetres": (lambda d, f: np.save(f.with_suffix(".npy"), d * 100), {"depth_scale": 100}),
        "TIFF in metres": (lambda d, f: save(d.astype(np.float32), f.with_suffix(".tiff")), {}),
        "TIFF in millimetres": (lambda d, f: save(np.rint(d * 1000).astype(np.uint16), f.with_suffix(".tif")), {}),
        "PNG of TUM": (
            lambda d, f: save(np.rint(d * 5000).astype(np.uint16), f.with_suffix(".png")),
            {"depth_scale": 5000},
        ),
    }
    for form, (write, options) in forms.items():
        for file in (room / "depth").iterdir():
            file.unlink()
        for index, name in enumerate(NAMES):
            write(shot(index, CAMERA, SIZE)[1], room / "depth" / name)
        frames = opened(room, **options)
        assert_frame(frames[1], 1)
        truth = shot(1, CAMERA, SIZE)[1]
        np.testing.assert_allclose(frames[1].depth_HW, truth, atol=6e-4, err_msg=form)


def test_values_that_are_no_reading(room):
    odd = [0.0, -1.0, np.nan, np.inf, -np.inf, np.finfo(np.float32).max, 0.05, 30.0]

    def write(depth, file):
        depth = depth.astype(np.float32)
        depth[0, : len(odd)] = odd
        np.save(file.with_suffix(".npy"), depth)

    rewrite_depth(room, write)
    cues = opened(room)[1]
    assert cues.valid_HW[0, : len(odd)].tolist() == [False] * 6 + [True] * 2
    assert (cues.depth_HW[0, :6] == 0).all()
    cues = opened(room, max_depth=8.0)[1]
    assert cues.valid_HW[0, : len(odd)].tolist() == [False] * 6 + [True, False] and cues.valid_HW[1:].all()
    with pytest.raises(SpatialBoostError, match=r"read as metres, depth is 0.05 to 0.05 m.*: 1 if these are metres"):
        opened(room, max_depth=0.3)


def test_an_unusual_scale_names_the_option(room, caplog):
    rewrite_depth(
        room,
        lambda depth, file: Image.fromarray(np.rint(depth * 5000).astype(np.uint16)).save(file.with_suffix(".png")),
    )
    with pytest.raises(
        SpatialBoostError, match=r"depth and poses disagree .*give --depth-scale 5000|unusual .*--depth-scale"
    ):
        opened(room)
    (room / "poses.txt").unlink()
    opened(room, depth_scale=600)
    assert "at 600 values per metre, depth is" in caplog.text and "--depth-scale" in caplog.text
    with pytest.raises(SpatialBoostError, match=r"cannot be right; correct --depth-scale"):
        opened(room, depth_scale=0.5)
    (room / "depth_scale.txt").write_text("600")
    np.testing.assert_allclose(opened(room, depth_scale=5000)[0].depth_HW, shot(0, CAMERA, SIZE)[1], atol=2e-4)


@pytest.mark.parametrize(("depth_size", "fit", "size"), [
    ((30, 40), "smaller", (30, 40)),
    ((30, 40), "image", (60, 80)),
    ((120, 160), "smaller", (60, 80)),
    ((120, 160), "depth", (120, 160)),
    ((61, 80), "smaller", (60, 80)),
])  # fmt: skip
def test_depth_of_another_size(room, caplog, depth_size, fit, size):
    from spatialboost.scenes.camera import rescale_intrinsics

    camera = rescale_intrinsics(CAMERA, SIZE, depth_size)
    for index, name in enumerate(NAMES):
        values = np.rint(shot(index, camera, depth_size)[1] * 1000).astype(np.uint16)
        Image.fromarray(values).save(room / "depth" / f"{name}.png")
    frames = opened(room, fit=fit)
    cues = frames[2]
    assert cues.size == size
    assert_frame(cues, 2)
    np.testing.assert_allclose(cues.intrinsics_33, rescale_intrinsics(CAMERA, SIZE, size))
    said = [record for record in caplog.records if "get the size of" in record.getMessage()]
    assert len(said) == 1  # once, not for each frame
    assert f"depth maps of {depth_size[1]}x{depth_size[0]} pixels" in caplog.text


# --- which files belong together


def test_name_patterns(room):
    (room / "rgb").rename(room / "colour [left]")
    for index, name in enumerate(NAMES):
        (room / "colour [left]" / f"{name}.png").rename(room / "colour [left]" / f"colour_{index}_a.PNG")
        (room / "depth" / f"{name}.png").rename(room / "depth" / f"{index}.depth.png")
    (room / "colour [left]" / "._colour_0_a.PNG").write_bytes(b"x")
    (room / "colour [left]" / "other.png").write_bytes(b"x")
    options = {"images": "colour [left]/colour_*_a.png", "depths": "depth/*.depth.png"}
    frames = opened(room, **options)
    assert frames.names == [f"colour_{index}_a" for index in range(NUM)]
    assert_walk(frames)
    source = open_source("rgbd", SourceOptions(path=room, reader=ReaderOptions(**options)))
    assert source.name == f"{room.name} full size images {options['images']} depths {options['depths']}"
    for wrong, said in (
        ({"images": "*/x_*.png"}, "expected a folder and a file name with one or more"),
        ({"images": "colour [left]/colour.png"}, "expected a folder and a file name with one or more"),
        ({"images": options["images"], "depths": "z/*"}, "has no folder z/; .*--depths PATTERN"),
        ({"images": options["images"]}, "no image has a depth map of its name: colour_0_a.PNG is one"),
    ):
        with pytest.raises(SpatialBoostError, match=said):
            opened(room, **wrong)


def test_associations(room, caplog):
    lines = ["# depth first, as some sets have it", *(f"depth/{name}.png rgb/{name}.png" for name in NAMES)]
    (room / "pairs.txt").write_text("\n".join([*lines, lines[2]]) + "\n")
    (room / "poses.txt").unlink()
    frames = opened(room, associations="pairs.txt")
    assert frames.names == NAMES  # the frame that occurs twice is read once
    assert_frame(frames[4], 4, world_44=None)
    (room / "rgb" / "000.png").rename(room / "rgb" / "first image.png")
    (room / "pairs.txt").write_text(
        "0.5, rgb/first image.png, 0.51, depth/000.png\n0.6,rgb/missing.png,0.6,depth/001.png"
    )
    frames = opened(room, associations="pairs.txt")
    assert_frame(frames[0], 0, world_44=None)
    with pytest.raises(CuesError, match=r"missing: the image rgb/missing.png of 0 bytes cannot be decoded"):
        frames[1]
    for text, said in (
        ("rgb/000.png", "line 1 has 1 words; expected in each line an image and its depth map"),
        ("a rgb/000.png b depth/000.png", "line 1 has no number in the place of a time"),
        ("# nothing", "names no frame"),
    ):
        (room / "pairs.txt").write_text(text)
        with pytest.raises(SpatialBoostError, match=said):
            opened(room, associations="pairs.txt")
    with pytest.raises(SpatialBoostError, match=r"has no folder rgb/|neither"):
        opened(room, associations="nowhere.txt")


def test_options_that_cannot_be(room):
    for wrong, said in (
        ({"depth_scale": 0.0}, "depth_scale is 0; expected a number above zero"),
        ({"max_depth": float("nan")}, "max_depth is nan"),
        ({"pose_type": "c2w"}, "pose_type is 'c2w'; expected camera-to-world, world-to-camera, opengl"),
        ({"fit": "larger"}, "fit is 'larger'; expected smaller, image, depth"),
        ({"up": (0, 0, 0)}, "expected a direction of three numbers"),
    ):
        with pytest.raises(SpatialBoostError, match=said):
            ReaderOptions(**wrong)
    with pytest.raises(SpatialBoostError, match="is an option of sources that read a folder"):
        open_source("rooms", SourceOptions(num=1, reader=ReaderOptions(max_depth=3.0)))
    with pytest.raises(SpatialBoostError, match="is an option of sources that read a folder"):
        open_source("rooms", SourceOptions(num=1, reader=ReaderOptions(depth_scale=3.0)))


def test_the_settings_of_a_data_set_have_the_options_but_no_path():
    options = ReaderOptions(poses="/home/me/poses.txt", max_depth=4.0, intrinsics="5 5 2 2", up=(0, 0, 1))
    assert options.describe() == "max_depth 4 intrinsics 5 5 2 2 poses poses.txt up (0, 0, 1)"


def test_the_direction_up_of_an_option(room):
    frames = opened(room, up=(0, 0, 2))
    from rendered_walk import assert_up
    from spatialboost.scenes.extract.gravity import up_in_camera

    cues = frames[2]
    assert_up(cues.up_3 if hasattr(cues, "up_3") else up_in_camera(frames._world_up, cues.pose_44), 2)


# --- damaged files


def png_of(width: int, height: int) -> bytes:
    """A small file that claims to be a large image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def npy(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("file", "data", "said"),
    [
        ("rgb/001.png", png_of(60000, 60000), "cannot be decoded|60000 x 60000 pixels"),
        ("rgb/001.png", png_of(8000, 6000), r"has 8000 x 6000 pixels, expected at most 16384 .* and 33554432"),
        ("rgb/001.png", b"", "of 0 bytes"),
        ("depth/001.npy", b"", "depth/001.npy of 0 bytes cannot be read"),
        ("depth/001.npy", npy(np.ones(SIZE))[:500], "cannot be read"),
        ("depth/001.npy", npy(np.ones((3, *SIZE))), r"is float64 \(3, 60, 80\), expected numbers of shape \(H, W\)"),
        ("depth/001.npy", npy(np.array([[{"a": 1}]]), allow_pickle=True), "cannot be read"),
        ("depth/001.npy", npy(np.ones(SIZE, bool)), "is bool"),
        ("depth/001.npy", npy(np.ones((1, 20000))), "expected numbers of shape"),
        ("depth/001.npy", npy(np.ones((60, 60))), r"depth map is \(60, 60\) but the image is \(60, 80\)"),
        ("depth/001.npy", npy(np.full(SIZE, np.nan)), "no pixel has a valid depth"),
    ],
)
def test_a_damaged_frame_is_named_and_costs_no_other(room, file, data, said):
    (room / "depth" / "001.png").unlink(missing_ok=file.startswith("depth"))
    if file.startswith("rgb"):
        Image.fromarray(np.ones(SIZE, np.uint16)).save(room / "depth" / "001.png")
    (room / file).write_bytes(data)
    frames = opened(room)
    with pytest.raises(CuesError, match=said) as caught:
        frames[1]
    assert str(caught.value).startswith(f"{room.name}/001: ") and "\n" not in str(caught.value)
    assert_frame(frames[2], 2)


def test_world_of_the_test_is_a_turn():
    assert np.linalg.det(TO_Z_UP[:3, :3]) == pytest.approx(1)
