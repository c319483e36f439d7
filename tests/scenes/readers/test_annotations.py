"""Names and masks from a user's own files: label images with names, and files in the form of COCO."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rendered_walk import NUM, matrix, shot, thing_masks
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.extract.protocol import PartialCues
from spatialboost.scenes.readers.annotations import decode_runs, draw_segmentation, to_objects
from spatialboost.scenes.readers.options import ReaderOptions
from spatialboost.scenes.readers.rgbd import RGBDFolder
from spatialboost.scenes.source_registry import SourceOptions, open_source

SIZE = (60, 80)
CAMERA = matrix(66.0, 66.5, 39.8, 29.6)


@pytest.fixture
def room(tmp_path) -> Path:
    """Frames without poses, and no annotations."""
    for name in ("rgb", "depth", "masks"):
        (tmp_path / name).mkdir()
    for index in range(NUM):
        image, depth = shot(index, CAMERA, SIZE)
        Image.fromarray(image).save(tmp_path / "rgb" / f"{index}.png")
        Image.fromarray(np.rint(depth * 1000).astype(np.uint16)).save(tmp_path / "depth" / f"{index}.png")
    np.savetxt(tmp_path / "intrinsics.txt", CAMERA)
    return tmp_path


def write_masks(room: Path, dtype=np.uint8, step: int = 1) -> dict[int, str]:
    """Label images of the true objects; the names of the values."""
    numbers: dict[str, int] = {}
    for index in range(NUM):
        labels = np.zeros(SIZE, dtype)
        for name, mask in thing_masks(index, CAMERA, SIZE).items():
            labels[mask] = numbers.setdefault(name, (len(numbers) + 1) * step)
        Image.fromarray(labels).save(room / "masks" / f"{index}.png")
    return {number: name for name, number in numbers.items()}


def assert_objects(objects, index: int) -> None:
    truth = thing_masks(index, CAMERA, SIZE)
    assert {thing.description for thing in objects} == truth.keys() and truth
    for thing in objects:
        assert (thing.mask_HW == truth[thing.description]).all(), thing.description


@pytest.mark.parametrize(("dtype", "step"), [(np.uint8, 1), (np.uint16, 1000)])
def test_label_images_with_names(room, dtype, step):
    names = write_masks(room, dtype, step)
    (room / "names.json").write_text(json.dumps(names))
    frames = RGBDFolder(room)
    assert frames.has_objects
    for index in (0, NUM - 1):
        assert_objects(frames[index].objects, index)
    (room / "names.json").unlink()
    (room / "names.csv").write_text("value,name\n" + "\n".join(f"{number}, {name}" for number, name in names.items()))
    assert_objects(RGBDFolder(room)[2].objects, 2)
    small = RGBDFolder(room, size=30)[2]
    assert small.objects[0].mask_HW.shape == small.size == (30, 40)


def test_names_of_single_frames(room, caplog):
    names = write_masks(room)
    for folder in ("rgb", "depth", "masks"):
        (room / folder / "1.png").rename(room / folder / "one.png")
    own = {"one": {str(number): f"thing_{number}" for number in names}}
    (room / "names.json").write_text(json.dumps({**names, **own}))
    frames = RGBDFolder(room)
    assert_objects(frames[0].objects, 0)
    assert {thing.description for thing in frames[-1].objects} <= {f"thing {number}" for number in names}
    lines = ["frame,value,name", *(f"{index},{number},{name}" for index in (0, 2) for number, name in names.items())]
    (room / "names.json").unlink()
    (room / "names.csv").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    frames = RGBDFolder(room)
    assert_objects(frames[1].objects, 2)
    assert frames[-1].objects == ()
    assert "one: values [" in caplog.text and "of its label image have no name" in caplog.text
    (room / "masks" / "2.png").unlink()
    assert RGBDFolder(room)[1].objects == ()


def coco(room: Path, segmentation) -> None:
    """The true objects of each frame; the segmentation of a mask is what a function makes of it."""
    images, annotations, categories = [], [], {}
    for index in range(NUM):
        images.append({"id": 100 + index, "file_name": f"rgb/{index}.png", "height": SIZE[0], "width": SIZE[1]})
        for name, mask in thing_masks(index, CAMERA, SIZE).items():
            category = categories.setdefault(name, len(categories) + 1)
            annotations.append({"image_id": 100 + index, "category_id": category, "segmentation": segmentation(mask)})
    names = [{"id": number, "name": name} for name, number in categories.items()]
    content = {"images": images, "annotations": annotations, "categories": names}
    (room / "annotations.json").write_text(json.dumps(content))


def runs(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of 0 and 1 in turn, column after column, beginning with 0."""
    flat = np.concatenate([[0], mask.T.ravel().astype(int), [-1]])
    changes = np.flatnonzero(np.diff(flat))
    return [int(length) for length in np.diff([0, *changes])]


def compress(counts: list[int]) -> str:
    """COCO's text of run lengths, as its own library writes it."""
    text = ""
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        while True:
            group, value = value & 31, value >> 5
            more = not (value == -1 if group & 16 else value == 0)
            text += chr(48 + group + (32 if more else 0))
            if not more:
                break
    return text


def test_a_file_in_the_form_of_coco(room):
    coco(room, lambda mask: {"size": list(SIZE), "counts": runs(mask)})
    for index in (0, NUM - 1):
        assert_objects(RGBDFolder(room)[index].objects, index)
    coco(room, lambda mask: {"size": list(SIZE), "counts": compress(runs(mask))})
    assert_objects(RGBDFolder(room)[1].objects, 1)


def test_polygons_and_names_of_single_objects(room):
    content = {
        "images": [{"id": 7, "file_name": "3.png", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [
            {"image_id": 7, "name": "big box", "segmentation": [[10, 5, 40, 5, 40, 30, 10, 30]]},
            {"image_id": 7, "caption": "cup on it", "segmentation": [[20, 8, 25, 8, 25, 12, 20, 12]]},
            {"image_id": 7, "name": "two parts", "segmentation": [[50, 40, 55, 40, 55, 45], [60, 40, 65, 40, 65, 45]]},
        ],
    }
    (room / "annotations.json").write_text(json.dumps(content))
    objects = {thing.description: thing.mask_HW for thing in RGBDFolder(room)[3].objects}
    assert list(objects) == ["big box", "cup on it", "two parts"]
    assert objects["big box"].sum() == 31 * 26 - 6 * 5  # the smaller one in front keeps its pixels
    assert objects["cup on it"][8:13, 20:26].all() and objects["cup on it"].sum() == 30
    assert objects["two parts"][:, 50:56].any() and objects["two parts"][:, 60:66].any()
    assert RGBDFolder(room)[0].objects == ()


def test_compressed_run_lengths_of_cocos_own_library():
    mask = np.zeros((9, 100), bool)
    mask[2:5, 10:13] = mask[8, 99] = mask[:, 50:90] = True
    text = "l236000[:U;XHiD"  # pycocotools 2.0.11: encode(np.asfortranarray(mask, np.uint8))
    assert (draw_segmentation({"size": [9, 100], "counts": text}, (9, 100)) == mask).all()
    assert decode_runs(compress([92, 3, 6, 3, 6, 3, 200000, 1])) == [92, 3, 6, 3, 6, 3, 200000, 1]
    assert decode_runs("") == []


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ([[1, 2, 3, 4]], "polygon of 4 numbers"),
        ([[1, 2, 3, 4, 5, float("nan")]], "not finite"),
        ([], "no pixel of its own"),
        ({"size": [60, 80], "counts": [10, 20]}, "runs of 30 pixels for 60x80"),
        ({"size": [60, 81], "counts": [4860]}, "for 60x81, and an image of 60x80"),
        ({"size": [60, 80], "counts": "~~"}, "the character '~'"),
        ({"size": [60, 80], "counts": [-1, 4801]}, "runs of"),
        (None, "has no valid segmentation"),
        ({"counts": [4800]}, "has no valid segmentation"),
    ],
)
def test_a_bad_segmentation_costs_its_frame_only(room, caplog, segmentation, said):
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]} for i in (0, 1)],
        "annotations": [{"image_id": 0, "name": "box", "segmentation": segmentation}],
    }
    (room / "annotations.json").write_text(json.dumps(content))
    frames = RGBDFolder(room)
    try:
        assert frames[0].objects == ()
    except CuesError as error:
        assert str(error).startswith(f"{room.name}/0: annotation 1 in annotations.json (box) has no valid segmentation")
        assert said in str(error)
    else:
        assert said in caplog.text
    assert frames[1].objects == ()


@pytest.mark.parametrize(
    "name", ["", " ", "<image>", "a\x00b", "<|im_start|>", 'a "box"', "x" * 61, "<b>box</b>", "{0}", "a\u202eb"]
)
def test_names_that_no_question_can_use_are_left_out(caplog, name):
    mask = np.ones((4, 4), bool)
    assert to_objects([(name, mask)], (4, 4), "here") == ()
    assert "here: the object name" in caplog.text


def test_names_are_cleaned():
    found = to_objects([("potted_plant\n (small)", np.ones((4, 4), bool)), ("Würfel", np.eye(4) > 0)], (4, 4), "here")
    assert [thing.description for thing in found] == ["potted plant (small)", "Würfel"]
    assert not (found[0].mask_HW & found[1].mask_HW).any()


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("names.json", "[]", "names.json has another form"),
        ("names.json", '{"one": "box"}', "names.json has another form"),
        ("names.json", "{", "names.json is not valid JSON"),
        ("names.csv", "1,2,3,4", "names.csv, line 1 is"),
        ("names.csv", "frame,value,name\n0,x,box", "names.csv, line 2 is"),
        ("annotations.json", "{}", r"annotations.json is not in the form of COCO \(KeyError"),
        ("annotations.json", '{"images": [], "annotations": [{"image_id": 1}]}', "not in the form of COCO"),
        ("annotations.json", "[" * 100000, "is not valid JSON"),
    ],
)
def test_mistakes_of_annotations(room, file, text, said):
    (room / file).write_text(text)
    with pytest.raises(SpatialBoostError, match=said) as caught:
        RGBDFolder(room)
    assert "\n" not in str(caught.value)


def test_masks_that_are_damaged_or_missing(room):
    names = write_masks(room)
    (room / "names.json").write_text(json.dumps(names))
    (room / "masks" / "1.png").write_bytes(b"x")
    Image.new("RGB", SIZE[::-1]).save(room / "masks" / "2.png")
    (room / "masks" / "._3.png").write_bytes(b"x")
    frames = RGBDFolder(room)
    with pytest.raises(CuesError, match=r"1: the label image masks/1.png of 1 bytes cannot be decoded"):
        frames[1]
    with pytest.raises(CuesError, match=r"2: the label image masks/2.png has mode RGB, expected one channel"):
        frames[2]
    assert_objects(frames[3].objects, 3)
    for file in (room / "masks").iterdir():
        file.unlink()
    (room / "masks").rmdir()
    with pytest.raises(SpatialBoostError, match=r"names.json: .* has no folder masks/"):
        RGBDFolder(room)


def test_own_names_are_used_instead_of_superpixels(room, tmp_path):
    from typer.testing import CliRunner

    from spatialboost.scenes.data_command import app
    from spatialboost.scenes.dataset.reader import open_rows

    names = write_masks(room)
    (room / "names.json").write_text(json.dumps(names))
    words = ["build", "--source", "rgbd", "--path", str(room), "--out", str(tmp_path / "data"), "--num", "3"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    meta = json.loads(open_rows([tmp_path / "data"])[0]["meta"])
    assert {thing["description"] for thing in meta["objects"]} <= set(names.values())
    assert meta["objects"]


def test_images_without_depth_may_have_names(room):
    write = room / "video"
    (room / "rgb").rename(write)
    names = write_masks(room)
    (room / "masks").rename(write / "masks")
    (write / "names.json").write_text(json.dumps(names))
    view = open_source("ego4d", SourceOptions(path=write, reader=ReaderOptions()))[4]
    assert isinstance(view, PartialCues)
    assert_objects(view.objects, 4)
