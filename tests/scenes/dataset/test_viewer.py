from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.schema import dataset_files
from spatialboost.scenes.dataset.viewer import write_page
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.rooms import Rooms
from tiny_cues import tiny_cues


@pytest.fixture
def folder(tmp_path) -> Path:
    views = [replace(tiny_cues(holes=True), source=f"<script>alert({i})</script>") for i in range(5)]
    build_dataset(views, tmp_path / "data", with_depth=True, progress=False, rows_per_shard=2)
    return tmp_path / "data"


class Tags(HTMLParser):
    void = ("meta", "img", "rect", "circle", "br", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.uris: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.uris += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def tamper(path: Path, old: str, new: str) -> None:
    table = pq.read_table(path)
    rows = table.to_pylist()
    for row in rows:
        for message in row["messages"]:
            message["content"] = message["content"].replace(old, new)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def test_one_page_shows_everything_and_loads_nothing(folder, tmp_path):
    page = write_page(folder, tmp_path / "new" / "page.html", limit=4)
    assert (page.shown, page.rows, page.wrong) == (4, 5, 0)
    text = page.path.read_text()
    tags = Tags(text)
    assert tags.open == []
    assert tags.seen.count("article") == 4
    assert len(tags.uris) == 3 * 4  # image, outlines and depth of each view
    assert all(uri.startswith("data:image/") for uri in tags.uris)
    assert not re.search(r"url\(|@import|https?://", text)
    assert text.count("12 of 12 turns right") == 4
    assert "red box, depth" in text
    assert "Answer: Yes." in text
    assert len(re.findall(r'class="bubble', text)) == 4 * 24
    truths = [json.loads(unescape(truth)) for truth in re.findall(r"<pre>(.*?)</pre>", text, re.DOTALL)]
    metas = [meta for path in dataset_files(folder) for meta in pq.read_table(path)["meta"].to_pylist()]
    assert truths == [json.loads(meta) for meta in metas[:4]]


def test_text_is_escaped(folder, tmp_path):
    tamper(folder / "part-00000.parquet", "The depth is", "<img src=x onerror=alert(1)>")
    text = write_page(folder, tmp_path / "page.html").path.read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(0)" in text
    assert "<img src=x" not in text
    assert "&lt;img src=x" in text


def test_a_wrong_answer_is_shown_as_wrong(folder, tmp_path):
    file = folder / "part-00001.parquet"
    told = [json.dumps(messages) for messages in pq.read_table(file)["messages"].to_pylist()]
    number = sum("Answer: Yes" in each for each in told)
    tamper(file, "Answer: Yes", "Answer: No")
    page = write_page(folder, tmp_path / "page.html")
    assert page.wrong == number > 0
    text = page.path.read_text()
    assert re.search(rf"{number} of the shown conversations have wrong answers", text)
    assert "but yes is right" in text


def test_colours_and_outlines_are_those_of_the_view(folder, tmp_path):
    uris = Tags(write_page(folder, tmp_path / "page.html", limit=1).path.read_text()).uris
    view = tiny_cues(holes=True)
    _, outlines, depth = (Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) for uri in uris)
    grey = (np.asarray(depth.convert("RGB")) == 150).all(-1)
    np.testing.assert_array_equal(grey, ~view.valid_HW)
    drawn = np.asarray(outlines.convert("RGBA"))[..., 3] > 0
    box = view.objects[0].mask_HW
    assert drawn[box].any()
    inside = box.copy()
    for axis in (0, 1):
        inside &= np.roll(box, 1, axis) & np.roll(box, -1, axis)
    assert not drawn[inside].any()


def test_a_dataset_without_depth_shows_points_on_the_image(tmp_path):
    build_dataset([tiny_cues()], tmp_path / "data", progress=False)
    tags = Tags(write_page(tmp_path / "data", tmp_path / "page.html").path.read_text())
    assert len(tags.uris) == 1
    assert tags.seen.count("circle") == 3 + 2 * 2


def test_every_view_of_a_scene_is_shown_with_its_own_points_and_objects(tmp_path):
    build_dataset(Rooms(3, size=64, views=2), tmp_path / "data", with_depth=True, progress=False)
    page = write_page(tmp_path / "data", tmp_path / "page.html")
    assert (page.shown, page.wrong) == (3, 0)
    text = page.path.read_text()
    tags = Tags(text)
    assert tags.open == []
    assert len(tags.uris) == 3 * 2 * 3
    assert re.findall(r'<div class="kind">(Image \d)</div>', text) == ["Image 1", "Image 2"] * 3
    metas = [json.loads(meta) for meta in pq.read_table(dataset_files(tmp_path / "data")[0])["meta"].to_pylist()]
    assert tags.seen.count("circle") == sum(len(turn.get("points", [])) for meta in metas for turn in meta["turns"])
    assert len(re.findall(r"<li><b", text)) == sum(len(view["objects"]) for meta in metas for view in meta["views"])
    assert "&lt;image&gt;" not in text.split("<details>")[0]


def test_mistakes_say_what_to_do(folder, tmp_path):
    with pytest.raises(SpatialBoostError, match="spatialboost data build"):
        write_page(tmp_path, tmp_path / "page.html")
    with pytest.raises(SpatialBoostError, match="limit is 0"):
        write_page(folder, tmp_path / "page.html", limit=0)
    table = pq.read_table(folder / "part-00000.parquet")
    pq.write_table(table.drop_columns(["meta"]), folder / "part-00000.parquet")
    with pytest.raises(SpatialBoostError, match=r"has no column \['meta'\]"):
        write_page(folder, tmp_path / "page.html")
    (folder / "part-00000.parquet").write_text(json.dumps({}))
    with pytest.raises(SpatialBoostError, match="is not a file that a build wrote"):
        write_page(folder, tmp_path / "page.html")


def test_boxes_lie_around_the_masks_of_their_objects(tmp_path):
    view = tiny_cues()
    build_dataset([view], tmp_path / "data", with_depth=True, progress=False)
    text = write_page(tmp_path / "data", tmp_path / "page.html").path.read_text()
    (meta,) = (json.loads(meta) for meta in pq.read_table(dataset_files(tmp_path / "data")[0])["meta"].to_pylist())
    paths = re.findall(r'<path d="([^"]+)"', text)
    assert len(paths) == len(meta["objects"]) > 1
    masks = {thing.description: thing.mask_HW & view.valid_HW for thing in view.objects}
    for path, fact in zip(paths, meta["objects"], strict=True):
        assert path.count("M") == 12
        u, v = np.array([pair.split(",") for pair in re.findall(r"[\d.-]+,[\d.-]+", path)], float).T
        rows, columns = np.nonzero(masks[fact["description"]])
        inside = (u.min() <= columns + 1) & (columns <= u.max()) & (v.min() <= rows + 1) & (rows <= v.max())
        assert inside.mean() > 0.9  # the extent leaves out 2 % at either end of each axis


def test_conversations_are_found_by_kind_and_text(tmp_path):
    views = [replace(tiny_cues(), source=f"place {i}", **({} if i % 2 else {"objects": ()})) for i in range(40)]
    build_dataset(views, tmp_path / "data", progress=False)
    page = tmp_path / "page.html"
    found = write_page(tmp_path / "data", page, kind="left_right", limit=3)
    assert found.shown == 3
    assert re.findall(r"<h2>Item (\d+)", page.read_text()) == ["1", "3", "5"]
    assert write_page(tmp_path / "data", page, search="PLACE 37").shown == 1
    assert re.findall(r"<h2>Item (\d+)", page.read_text()) == ["37"]
    with pytest.raises(SpatialBoostError, match="none of its 40 conversations has a turn of left_right and the text"):
        write_page(tmp_path / "data", page, kind="left_right", search="place 2\n")
    with pytest.raises(SpatialBoostError, match="Did you mean 'left_right'"):
        write_page(tmp_path / "data", page, kind="left_rigth")


def test_skipped_items_are_listed(tmp_path):
    views = [tiny_cues(), "no view", tiny_cues()]

    class Source(list):
        names = ("one", "<b>two", "three")

        def __getitem__(self, index):
            if index == 1:
                raise ValueError("the file of 3 bytes cannot be decoded")
            return super().__getitem__(index)

    build_dataset(Source(views), tmp_path / "data", progress=False)
    text = write_page(tmp_path / "data", tmp_path / "page.html").path.read_text()
    assert "<b>&lt;b&gt;two</b>: the file of 3 bytes cannot be decoded" in text
