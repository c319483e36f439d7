from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multimodal_frames import frame
from spatialboost.errors import SpatialBoostError
from spatialboost.multimodal import FrameOptions, VisualInstructions
from spatialboost.multimodal.frames import crop

SMALL = FrameOptions(width=56)


@pytest.fixture
def media(tmp_path) -> Path:
    """A folder of frames, a video without a decoder's help, and single images."""
    (tmp_path / "scannet" / "scene0").mkdir(parents=True)
    for i in range(22):
        Image.new("RGB", (64, 48), (10 * i, 0, 0)).save(tmp_path / "scannet" / "scene0" / f"{i:04d}.png")
    Image.fromarray(frame(90, 60, 0)).save(tmp_path / "one.jpg")
    Image.fromarray(frame(30, 60, 1)).save(tmp_path / "two.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    return tmp_path


def turn(question: str, answer: str = "Two") -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def write(folder: Path, rows: list, name: str = "rows.jsonl") -> Path:
    file = folder / name
    file.write_text(json.dumps(rows) if name.endswith(".json") else "".join(f"{json.dumps(row)}\n" for row in rows))
    return file


ROWS = [
    # VSI-590K marks a video with <image>, and has keys that are not needed
    {"conversations": turn("<image>\nHow many?"), "video": "scannet/scene0", "question_type": "object_counting"},
    {"conversations": turn("<video>\nHow many?"), "video": "scannet/scene0"},
    {"conversations": turn("How many?"), "video": "scannet/scene0"},
    # VG-LLM
    {"conversations": turn("<image>\n<image>\nHow many?"), "images": ["one.jpg", "two.jpg"]},
    {"conversations": turn("<video>How many?"), "images": ["one.jpg", "two.jpg"]},
    {"conversations": turn("<image>How many?"), "image": "one.jpg"},
    {"conversations": [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Two"}]},
]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_layouts(media, name):
    rows = VisualInstructions(write(media, ROWS, name), frames=SMALL)
    marks = [11, 11, 11, 2, 2, 1, 0]
    marks[:3] = [8, 8, 8]  # 22 frames at 1 a second are 22 seconds: 11, of at most 8
    found = list(rows)
    assert [len(sample.frames) for sample in found] == marks
    for sample, number in zip(found, marks, strict=True):
        assert sample.messages[0] == {"role": "user", "content": "<image>" * number + "How many?"}
        assert sample.messages[1] == {"role": "assistant", "content": "Two"}
    assert [int(f[0, 0, 0]) // 10 for f in found[0].frames] == [0, 3, 6, 9, 12, 15, 18, 21]
    assert found[0].frames[0].shape == (42, 56, 3) and not rows.left_out
    assert [f.shape for f in found[3].frames] == [(56, 56, 3), (28, 56, 3)]


def test_bad_rows_are_left_out_and_named(media, caplog):
    bad = {
        "broken.jpg cannot be read as an image": {"conversations": turn("<image>a"), "image": "broken.jpg"},
        "missing.jpg cannot be read": {"conversations": turn("<image>a"), "image": "missing.jpg"},
        "there is no file": {"conversations": turn("<image>a"), "video": "missing.mp4"},
        "leads out of the media folder": {"conversations": turn("<image>a"), "image": "../one.jpg"},
        "`conversations` is None": {"image": "one.jpg"},
        "a message is": {"conversations": [{"from": "robot", "value": "a"}]},
        "3 <image> marks for 1 frames": {"conversations": turn("<image><image><image>"), "image": "one.jpg"},
        "has no question": {"conversations": [{"from": "gpt", "value": "a"}, {"from": "system", "value": "a"}]},
        "expected a path": {"conversations": turn("<image>a"), "image": 3},
    }
    file = write(media, [*bad.values(), ROWS[-1]])
    with file.open("a") as opened:
        opened.write('{"conversations": \n[1, 2]\n')
    rows = VisualInstructions(file, frames=SMALL)
    assert rows[0].messages[0]["content"] == "How many?"  # the next one that can be used
    assert rows[len(bad) + 1].messages[0]["content"] == "How many?"  # around the end
    texts = list(rows.left_out.values())
    for text, expected in zip(texts[: len(bad)], bad, strict=True):
        assert expected in text
    assert set(rows.left_out) == {f"rows.jsonl row {i}" for i in (*range(len(bad)), len(bad) + 1, len(bad) + 2)}
    assert "rows.jsonl row 0 is left out" in caplog.text and "not JSON" in texts[-2]


def test_files_that_cannot_be_used(media):
    with pytest.raises(SpatialBoostError, match=r"cannot read .*nothing.json"):
        VisualInstructions(media / "nothing.json")
    (media / "empty.jsonl").write_text("\n")
    with pytest.raises(SpatialBoostError, match="has no rows"):
        VisualInstructions(media / "empty.jsonl")
    (media / "half.json").write_text('[{"a": 1},')
    with pytest.raises(SpatialBoostError, match="is not JSON"):
        VisualInstructions(media / "half.json")
    with pytest.raises(SpatialBoostError, match=r"no row of .* can be used; the last one: `conversations` is None"):
        VisualInstructions(write(media, [{}, {}]))[0]


def test_a_video_file(media):
    """Thirty frames a second for 10 seconds: five frames, evenly from the first to the last."""
    av = pytest.importorskip("av")
    with av.open(str(media / "walk.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(300):
            image = np.full((48, 64, 3), i * 255 // 299, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    sample = VisualInstructions(write(media, [{**ROWS[0], "video": "walk.mp4"}]), frames=SMALL)[0]
    assert len(sample.frames) == 5
    brightness = [float(f.mean()) for f in sample.frames]
    np.testing.assert_allclose(brightness, np.linspace(0, 255, 5), atol=6)
    (media / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(SpatialBoostError, match=r"broken.mp4 cannot be read as a video"):
        VisualInstructions(write(media, [{**ROWS[0], "video": "broken.mp4"}])).read(0)


def test_sizes_of_frames():
    options = FrameOptions()
    shapes = {
        (480, 640): (392, 518),
        (640, 480): (518, 518),
        (968, 1296): (392, 518),
        (518, 518): (518, 518),
        (10, 900): (14, 518),
    }
    for before, after in shapes.items():
        assert options.prepare(np.zeros((*before, 3), np.uint8)).shape == (*after, 3)
    assert crop(np.zeros((392, 518, 3)), 28).shape == (392, 504, 3) and 392 * 504 // 28**2 == 252
    tall = np.zeros((1036, 518, 3), np.uint8)
    tall[518:] = 255
    assert options.prepare(tall).mean() == pytest.approx(127.5)  # cut equally above and below


def test_numbers_of_frames():
    options = FrameOptions()
    assert [options.count(s) for s in (0.1, 8, 9.1, 12, 15.9, 100)] == [4, 4, 5, 6, 8, 8]
    assert options.chosen(3, 1.0) == [0, 1, 2] and options.chosen(100, 1.0)[-1] == 99
