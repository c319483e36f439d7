from __future__ import annotations

import io
import logging
import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import ExifTags, Image

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.extract.pipeline import Extracted
from spatialboost.scenes.images.folder import Photographs
from spatialboost.scenes.images.listing import list_images
from spatialboost.scenes.images.photograph import view_photograph
from spatialboost.scenes.source_registry import SourceOptions, open_source


def picture(number: int = 0, size: tuple[int, int] = (64, 48), mode: str = "RGB") -> Image.Image:
    """An image that differs from number to number; ``size`` = width and height."""
    noise = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(noise).resize(size).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write(root, **images: bytes) -> None:
    for name, content in images.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def errors_of(views: Photographs) -> dict[str, str]:
    found = {}
    for number, name in enumerate(views.names):
        try:
            views[number]
        except CuesError as error:
            found[name] = str(error)
    return found


def test_images_of_all_subfolders_in_natural_order(tmp_path, caplog):
    caplog.set_level(logging.INFO, "spatialboost")
    names = ["10.jpg", "2.JPG", "b/1.png", "b10/x.webp", "b9/x.jpeg", "with [blanks] & ~/1.jpg"]
    write(tmp_path, **{name: encoded(picture(number)) for number, name in enumerate(names)})
    hidden = ["._2.jpg", ".hidden/1.jpg", ".ipynb_checkpoints/1.jpg", "__MACOSX/1.jpg", "b/.DS_Store", "@eaDir/1.jpg"]
    write(tmp_path, **{name: b"x" for name in hidden}, **{"b/notes.txt": b"x", "b/labels.json": b"{}"})
    views = Photographs(tmp_path)
    assert views.names == ["2.JPG", "10.jpg", "b/1.png", "b9/x.jpeg", "b10/x.webp", "with [blanks] & ~/1.jpg"]
    assert f"{tmp_path}: 6 images, 2 other files" in caplog.text
    assert (len(views), views.name) == (6, f"images {tmp_path.name} 480 px or less")
    view = views[2]
    assert (view.source, view.image_HW3.shape) == ("b/1.png", (48, 64, 3))
    assert view.depth_HW is view.intrinsics_33 is None
    assert views[-1].source == views.names[5]
    with pytest.raises(IndexError, match="image 6 of 6"):
        views[6]


def test_num_takes_evenly_spaced_images_and_size_makes_them_smaller(tmp_path):
    write(tmp_path, **{f"{number}.png": encoded(picture(number), "PNG") for number in range(9)})
    views = open_source("images", SourceOptions(path=tmp_path, num=3, size=24))
    assert views.names == ["0.png", "4.png", "8.png"]
    assert views[1].image_HW3.shape == (24, 32, 3)
    assert "24 px" in views.name
    assert open_source("images", SourceOptions(path=tmp_path, num=90)).names == Photographs(tmp_path).names
    cut = Photographs(tmp_path, size=(30, 30))[0]
    assert cut.image_HW3.shape == (30, 30, 3)
    middle = picture(0).crop((8, 0, 56, 48)).resize((30, 30), Image.Resampling.BILINEAR)
    assert (cut.image_HW3 == np.asarray(middle)).all()
    again = pickle.loads(pickle.dumps(views))
    assert (again[2].image_HW3 == views[2].image_HW3).all()


def test_large_photographs_become_smaller_and_small_ones_stay(tmp_path):
    write(tmp_path, **{"large.jpg": encoded(picture(0, (1600, 1200))), "small.jpg": encoded(picture(1, (100, 80)))})
    assert [view.image_HW3.shape[:2] for view in map(Photographs(tmp_path).__getitem__, range(2))] == [
        (480, 640),
        (80, 100),
    ]


def test_all_that_is_bad_is_skipped_and_named_with_its_numbers(tmp_path, monkeypatch):
    good = encoded(picture(0))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    write(
        tmp_path,
        **{
            "bomb.png": encoded(picture(1, (200, 100)), "PNG"),
            "bomb2.png": encoded(picture(1, (400, 300)), "PNG"),
            "broken.jpg": b"\xff\xd8\xff" + b"nothing" * 20,
            "empty.jpg": b"",
            "float.tiff": encoded(Image.fromarray(np.zeros((48, 64), np.float32)), "TIFF"),
            "phone.heic": b"\0\0\0\x18ftypheic" + b"\0" * 50,
            "strip.png": encoded(picture(2, (200, 20)), "PNG"),
            "truncated.jpg": good[: len(good) // 2],
            "tiny.gif": encoded(picture(3, (4, 4)), "GIF"),
            "z.jpg": good,
        },
    )
    os.symlink(tmp_path / "gone.jpg", tmp_path / "link.jpg")
    found = errors_of(Photographs(tmp_path))
    assert "z.jpg" not in found
    expected = {
        "bomb.png": "200 x 100 pixels; expected at most 10000",
        "bomb2.png": "decompression bomb",
        "broken.jpg": "an image of 143 bytes cannot be read as an image",
        "empty.jpg": "an image of 0 bytes cannot be read as an image",
        "float.tiff": "mode F have no known range",
        "link.jpg": "it cannot be read (No such file or directory)",
        "phone.heic": "an image of 62 bytes cannot be read as an image",
        "strip.png": "the image has 200x20 pixels; expected at least 16 for each edge, and a longer edge of at most 8",
        "truncated.jpg": "cannot be read as an image",
        "tiny.gif": "the image has 4x4 pixels",
    }
    assert set(found) == set(expected)
    for name, text in expected.items():
        assert found[name].startswith(f"{name}: ")
        assert text in found[name]


def test_all_that_is_good_is_upright_colour(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    deep = Image.fromarray(np.asarray(picture(1, mode="L")).astype(np.uint16) * 257)
    frames = [picture(number, mode="P") for number in (2, 3)]
    write(
        tmp_path,
        **{
            "cmyk.jpg": encoded(picture(0, mode="CMYK")),
            "deep.png": encoded(deep, "PNG"),
            "film.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
            "turned.jpg": encoded(picture(4), exif=exif),
        },
    )
    views = Photographs(tmp_path)
    assert errors_of(views) == {}
    cmyk, deep_view, film, turned = (views[number].image_HW3 for number in range(4))
    assert np.abs(cmyk.astype(int) - np.asarray(picture(0)).astype(int)).mean() < 20
    assert (deep_view[..., 0] == np.asarray(picture(1, mode="L"))).all()
    assert (film == np.asarray(frames[0].convert("RGB"))).all()
    assert turned.shape == (64, 48, 3)


def test_images_with_the_same_bytes_are_used_once(tmp_path):
    first, second = encoded(picture(0), "BMP"), encoded(picture(1), "BMP")
    assert len(first) == len(second)
    write(
        tmp_path,
        **{"1.bmp": first, "2.bmp": second, "3.bmp": first, "sub/4.bmp": first, "sub/5.bmp": b"", "6.bmp": b""},
    )
    expected = {"3.bmp": "1.bmp", "sub/4.bmp": "1.bmp"}
    views = Photographs(tmp_path)
    for _ in range(2):  # in any order
        for name, twin in reversed(expected.items()):
            with pytest.raises(CuesError, match=rf"{name} \(a copy of {twin}\): the same bytes; the first is used"):
                views[views.names.index(name)]
    assert set(errors_of(views)) == {*expected, "sub/5.bmp", "6.bmp"}
    (tmp_path / "1.bmp").unlink()
    assert views[views.names.index("3.bmp")].source == "3.bmp"  # what cannot be read is no twin
    assert "cannot be read (No such file" in errors_of(views)["1.bmp"]


def test_odd_names_can_be_printed_and_stored(tmp_path):
    name = b"new\nline \xff <image>.jpg"
    with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
        file.write(encoded(picture(0)))
    view = Photographs(tmp_path)[0]
    assert view.source.isprintable()
    assert view.source.encode() == rb"new\nline \udcff <image>.jpg"


def test_links_in_a_circle_and_closed_folders_end(tmp_path, caplog):
    write(tmp_path, **{"a/1.jpg": encoded(picture(0)), "b/2.jpg": encoded(picture(1))})
    os.symlink(tmp_path, tmp_path / "a" / "around")
    os.symlink(tmp_path / "b", tmp_path / "c")
    assert Photographs(tmp_path).names == ["a/1.jpg", "b/2.jpg"]


# --- the focal length


def test_the_focal_length_of_exif_becomes_intrinsics(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 26
    exif[ExifTags.Base.Orientation] = 6
    content = encoded(picture(0, (1280, 960)), exif=exif)
    view = view_photograph(content, "photo", 240)
    focal = 26 / np.hypot(36, 24) * np.hypot(240, 320)
    assert view.facts == {"focal": "exif"}
    assert view.image_HW3.shape == (320, 240, 3)
    np.testing.assert_allclose(view.intrinsics_33, [[focal, 0, 119.5], [0, focal, 159.5], [0, 0, 1]], rtol=1e-12)
    cut = view_photograph(content, "photo", (240, 240))
    np.testing.assert_allclose(cut.intrinsics_33, [[focal, 0, 119.5], [0, focal, 119.5], [0, 0, 1]], rtol=1e-12)
    assert view_photograph(encoded(picture(0)), "photo").intrinsics_33 is None


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_costs_only_the_focal_length():
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\xff\xff\xff\x7f\0\0"
    view = view_photograph(encoded(picture(0), exif=exif), "photo")
    assert (view.intrinsics_33, view.facts) == (None, {})


# --- tar files


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_images_in_tar_files_are_read_in_place(tmp_path, form):
    long = "x" * 90 if form == tarfile.USTAR_FORMAT else "x" * 300
    names = [
        "sub/10.jpg",
        "sub/2.jpg",
        "sub/2.json",
        "sub/._2.jpg",
        f"{'deep/' * 20}{long}.jpg",
        "\u00e9.png",
        ".hid/1.jpg",
    ]
    contents = {name: encoded(picture(number)) + b"\0" * number for number, name in enumerate(names)}
    with tarfile.open(tmp_path / "shard-10.tar", "w", format=form) as tar:
        for name, content in contents.items():
            add(tar, name, content)
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "sub/2.jpg"
        tar.addfile(link)
        add(tar, "zuletzt.jpg", encoded(picture(9)))
    with tarfile.open(tmp_path / "shard-9.tar", "w", format=form) as tar:
        add(tar, "only.jpg", encoded(picture(20)))
    write(tmp_path, **{"shard-9x.jpg": encoded(picture(21))})
    views = Photographs(tmp_path)
    expected = [name for name in names if name.endswith("g") and "._" not in name and ".hid" not in name]
    assert sorted(views.names) == sorted(
        [f"shard-10.tar/{name}" for name in [*expected, "zuletzt.jpg"]] + ["shard-9.tar/only.jpg", "shard-9x.jpg"]
    )
    assert views.names.index("shard-9.tar/only.jpg") < views.names.index("shard-10.tar/sub/2.jpg")
    assert views.names.index("shard-10.tar/sub/2.jpg") < views.names.index("shard-10.tar/sub/10.jpg")
    assert errors_of(views) == {}
    for number, name in enumerate(views.names):
        inside = name.removeprefix("shard-10.tar/")
        if inside in contents:
            assert (views[number].image_HW3 == np.asarray(Image.open(io.BytesIO(contents[inside])))).all()
    alone = Photographs(tmp_path / "shard-9.tar")
    assert alone.names == ["shard-9.tar/only.jpg"]
    assert (alone[0].image_HW3 == views[views.names.index("shard-9.tar/only.jpg")].image_HW3).all()
    pickled = pickle.loads(pickle.dumps(views))
    assert errors_of(pickled) == {}


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def test_damaged_tar_files_lose_only_what_is_damaged(tmp_path, caplog):
    for name, cut in (("whole", None), ("cut", 3000), ("zero", 0), ("noise", -1)):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for number in range(3):
                add(tar, f"{number}.jpg", encoded(picture(10 * len(name) + number)))
        if cut is not None:
            content = (tmp_path / f"{name}.tar").read_bytes()
            (tmp_path / f"{name}.tar").write_bytes(b"noise" * 500 if cut < 0 else content[:cut])
    views = Photographs(tmp_path)
    assert [name for name in views.names if name.startswith("whole")] == [f"whole.tar/{n}.jpg" for n in range(3)]
    assert [name for name in views.names if not name.startswith("whole")] == ["cut.tar/0.jpg"]
    assert errors_of(views) == {}
    assert "cut.tar is damaged (it ends after 3000 bytes, inside of 1.jpg); 1 images before the damage" in caplog.text
    assert "zero.tar is damaged" in caplog.text
    assert "noise.tar is damaged" in caplog.text


# --- what is refused


def test_wrong_folders_are_one_clear_line(tmp_path, caplog):
    (tmp_path / "empty").mkdir()
    write(tmp_path, **{"empty/readme.md": b"x", "a.tar.gz": b"x", "file.jpg": b"x"})
    for path, message in (
        ("empty", "has no image, but 1 other files; expected files that end in"),
        ("missing", r"does not exist; expected a folder of photographs, or a \.tar file"),
        ("file.jpg", "is a file; expected a folder"),
        ("a.tar.gz", r"is compressed, .*; unpack it to a \.tar file"),
    ):
        with pytest.raises(SpatialBoostError, match=message):
            Photographs(tmp_path / path)
    with pytest.raises(SpatialBoostError, match="num is 0; expected at least one image"):
        Photographs(tmp_path, num=0)
    with pytest.raises(SpatialBoostError, match="size is 0"):
        Photographs(tmp_path, size=0)
    with pytest.raises(SpatialBoostError, match="source images needs a path"):
        open_source("images", SourceOptions())
    with pytest.raises(SpatialBoostError, match="2 views of 1 frames; expected at least 2 views"):
        open_source("images", SourceOptions(path=tmp_path, views=2))
    list_images(tmp_path)
    assert "a.tar.gz is not read: unpack it" in caplog.text


def test_frames_that_follow_each_other_are_the_views_of_an_item(tmp_path):
    write(tmp_path, **{f"frame{number}.png": encoded(picture(number)) for number in range(5)})
    source = open_source("images", SourceOptions(path=tmp_path, views=2, stride=2))
    assert source.name == f"images {tmp_path.name} 480 px or less 2 views 2 apart"
    assert [view.source for view in source[1]] == ["frame1.png", "frame3.png"]

    class Geometry:
        kind, name = "reconstruction", "geometry"

        def __call__(self, views):
            size, eye = views[0].image_HW3.shape[:2], np.eye(4)
            camera = np.array([[50.0, 0, 20], [0, 50.0, 20], [0, 0, 1]])
            depth = {"depth_HW": np.full(size, 2.0, np.float32), "intrinsics_33": camera}
            return [{**depth, "pose_44": eye} for _ in views]

    scene = Extracted(source, [Geometry()])[0]
    assert [view.source for view in scene.views] == ["frame0.png", "frame2.png"]
