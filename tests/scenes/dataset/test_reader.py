from __future__ import annotations

import io
import json
import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset import reader
from spatialboost.scenes.dataset.drawing import colour_depth
from spatialboost.scenes.dataset.reader import open_depth, open_image, open_rows
from spatialboost.scenes.dataset.row import millimetres as encoded_depth
from spatialboost.scenes.dataset.schema import VERSION, dataset_facts, dataset_files
from spatialboost.scenes.dataset.viewer import write_page
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.questions.checker import check_conversation
from spatialboost.scenes.questions.plan import TurnPlan
from tiny_cues import tiny_cues

OLD = Path(__file__).parent / "data" / "version-1"
COLUMNS = ["images", "messages", "meta", "poses", "intrinsics"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("rows") / "data"
    build_dataset([tiny_cues((24, 32))] * 45, out, rows_per_shard=20, progress=False)
    return out


def items(rows) -> list[int]:
    return [json.loads(row["meta"])["item"] for row in rows]


def test_bytes_of_images_are_read_only_when_they_are_asked_for(folder, monkeypatch):
    rows = open_rows([folder]).select_columns(["images", "meta"])
    light, read, own = pickle.loads(pickle.dumps(rows.without_bytes())), [], rows._read_group
    light._whole = rows
    monkeypatch.setattr(rows, "_read_group", lambda group: (read.append(group), own(group))[1])
    assert items([light[7]]) == [7] and [set(image) for image in light[7]["images"]] == [{"bytes", "path"}]
    assert not read and light._group(0).column("images").nbytes < 1000
    assert np.array_equal(open_image(light[7]["images"][0]), open_image(rows[7]["images"][0])) and read


def test_rows_come_in_order_and_at_random(folder):
    rows = open_rows([folder])
    assert (len(rows), rows.column_names) == (45, COLUMNS)
    assert items(rows) == list(range(45))
    order = np.random.default_rng(0).permutation(45).tolist()
    assert [items([rows[i]])[0] for i in order] == order
    assert items([rows[-1], rows[-45]]) == [44, 0]
    for wrong in (45, -46):
        with pytest.raises(IndexError, match="of 45"):
            rows[wrong]


def test_some_rows_and_some_columns(folder):
    rows = open_rows([folder])
    some = rows.select([40, 3, 3, 21])
    assert items(some) == [40, 3, 3, 21]
    assert items(some.select(range(1, 3))) == [3, 3]
    assert items(rows[5:9:2]) == [5, 7]
    assert items(some[::-1]) == [21, 3, 3, 40]
    assert len(rows.select([])) == 0
    metas = rows["meta"]
    assert (len(metas), json.loads(metas[7])["item"], len(metas[2:4])) == (45, 7, 2)
    assert list(some.select_columns(["meta"])[0]) == ["meta"]
    with pytest.raises(SpatialBoostError, match=r"no column \['depths'\]; there are"):
        rows.select_columns(["depths"])
    with pytest.raises(IndexError, match="row 45 of 45"):
        rows.select([0, 45])


def test_several_folders_follow_each_other_with_the_columns_that_all_have(folder):
    rows = open_rows([OLD, folder])
    assert rows.column_names == ["images", "messages", "meta"]
    assert items(rows)[:4] == [0, 1, 0, 1]
    assert open_image(rows[1]["images"][0]).size == (32, 24)


def test_nothing_but_the_ends_of_files_is_read_when_rows_are_opened(folder, monkeypatch):
    monkeypatch.setattr(reader.Rows, "_read_group", lambda *_: pytest.fail("a row was read"))
    rows = open_rows([folder]).select(range(30)).select_columns(["meta"])
    assert len(pickle.loads(pickle.dumps(rows))) == 30


def test_a_row_costs_its_own_group_and_no_other(folder, monkeypatch):
    read, inner = [], reader.Rows._read_group
    monkeypatch.setattr(reader.Rows, "_read_group", lambda rows, group: read.append(group) or inner(rows, group))
    rows = open_rows([folder])
    items(rows)
    assert read == [0, 1, 2, 3, 4]  # 16 + 4, 16 + 4, 5 rows
    rows[17], rows[18]
    assert read[5:] == [1]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_read_the_same_rows(folder, start):
    rows = open_rows([folder]).select_columns(["meta"])
    rows[0]  # fills the cache of the parent process
    context = multiprocessing.get_context(start)
    loader = DataLoader(rows, batch_size=9, num_workers=2, multiprocessing_context=context)
    assert [json.loads(meta)["item"] for batch in loader for meta in batch["meta"]] == list(range(45))


def test_a_pickle_holds_no_rows(folder):
    rows = open_rows([folder])
    before = len(pickle.dumps(rows))
    rows[0]
    assert len(pickle.dumps(rows)) == before


def test_a_folders_name_is_no_pattern(tmp_path):
    one = [tiny_cues((24, 32))]
    for name, num in (("rooms[12]", 3), ("rooms1", 1), ("rooms*", 2), ("rooms?x", 4)):
        build_dataset(one * num, tmp_path / name, progress=False)
        build_dataset(one * num, tmp_path / name, progress=False)  # continues with the existing files
    for name, num in (("rooms[12]", 3), ("rooms1", 1), ("rooms*", 2), ("rooms?x", 4)):
        assert len(open_rows([tmp_path / name])) == num
        assert write_page(tmp_path / name, tmp_path / f"{name}.html").rows == num
    with pytest.raises(SpatialBoostError, match="no parquet files"):
        open_rows([tmp_path / "rooms[1]"])


def test_data_sets_of_version_1_are_read_shown_and_gone_on_with(tmp_path):
    assert dataset_facts(OLD / "part-00000.parquet")["version"] == 1
    rows = open_rows([OLD])
    assert rows.column_names == ["images", "messages", "meta", "depths", "labels"]
    for row in rows:
        assert check_conversation(row["messages"], json.loads(row["meta"])) == []
    assert write_page(OLD, tmp_path / "page.html").wrong == 0
    half = tmp_path / "half"
    half.mkdir()
    (half / "part-00000.parquet").write_bytes((OLD / "part-00000.parquet").read_bytes())
    views = [tiny_cues((24, 32))] * 4
    options = {
        "rows_per_shard": 2,
        "with_depth": True,
        "quality": 50,
        "plan": TurnPlan(least=12, wordings=2),
        "progress": False,
    }
    report = build_dataset(views, half, seed=3, **options)
    assert (report.resumed, report.written) == (1, 4)
    rows = open_rows([half])
    assert rows.column_names == ["images", "messages", "meta", "depths", "labels"]
    assert items(rows) == [0, 1, 2, 3]
    assert dataset_facts(half / "part-00001.parquet")["version"] == 1
    with pytest.raises(SpatialBoostError, match="was built with seed 3 instead of 4"):
        build_dataset(views, half, seed=4, **options)


def test_a_version_from_the_future_is_refused_by_name(tmp_path, folder):
    path = dataset_files(folder)[0]
    table = pq.read_table(path)
    facts = json.loads(table.schema.metadata[b"spatialboost"])
    facts["version"] = VERSION + 1
    table = table.replace_schema_metadata({**table.schema.metadata, b"spatialboost": json.dumps(facts)})
    pq.write_table(table, tmp_path / "part-00000.parquet")
    message = rf"part-00000.parquet is a data set of version {VERSION + 1}; this spatialboost reads versions up to"
    with pytest.raises(SpatialBoostError, match=message):
        open_rows([tmp_path])
    with pytest.raises(SpatialBoostError, match=message):
        write_page(tmp_path, tmp_path / "page.html")
    with pytest.raises(SpatialBoostError, match=message):
        build_dataset([tiny_cues()], tmp_path, progress=False)


def test_files_that_others_wrote_need_images_and_messages(tmp_path):
    row = {"images": [{"bytes": b"x", "path": None}], "messages": [{"role": "user", "content": "<image>\nWhat?"}]}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "theirs.parquet")
    assert open_rows([tmp_path])[0] == row
    pq.write_table(pa.table({"images": [1], "text": ["x"]}), tmp_path / "theirs.parquet")
    with pytest.raises(SpatialBoostError, match=r"has no column \['messages'\]; it has \['images', 'text'\]"):
        open_rows([tmp_path])
    (tmp_path / "theirs.parquet").write_bytes(b"cut off")
    with pytest.raises(SpatialBoostError, match=r"theirs.parquet cannot be read as parquet"):
        open_rows([tmp_path])
    with pytest.raises(SpatialBoostError, match="no folder is given"):
        open_rows([])


def test_damage_inside_of_a_file_costs_only_its_rows(folder, tmp_path):
    for path in dataset_files(folder):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / "part-00001.parquet"
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)  # the pages of the first group; the footer stays as it is
    path.write_bytes(content)
    rows = open_rows([tmp_path])
    with pytest.raises(
        SpatialBoostError, match=r"part-00001.parquet: its row group 0 cannot be read .* build the file"
    ):
        rows[20]
    assert items([rows[19], rows[40]]) == [19, 40]


def encoded(kind: str, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(24 * 32 * 3, dtype=np.uint8).reshape(24, 32, 3)).save(stream, kind, **options)
    return stream.getvalue()


def test_an_image_that_cannot_be_decoded_is_an_error_of_ours():
    for broken, message in (
        (None, "no bytes"),
        (b"text", "not an image format"),
        (encoded("PNG")[:90], "cannot be decoded"),
    ):
        with pytest.raises(SpatialBoostError, match=message):
            open_image({"bytes": broken, "path": None})


def test_depth_is_opened_in_metres():
    row = open_rows([OLD])[0]
    view = tiny_cues((24, 32))
    np.testing.assert_allclose(open_depth(row["depths"][0]), view.depth_HW, atol=0.00051)
    with pytest.raises(SpatialBoostError, match="mode RGB, expected a depth map"):
        open_depth(row["images"][0])


def test_the_largest_value_is_no_reading():
    millimetres = np.array([[0, 1500, 65534, 65535]], np.uint16)
    stream = io.BytesIO()
    Image.fromarray(millimetres).save(stream, "PNG")
    depth = open_depth({"bytes": stream.getvalue()})
    np.testing.assert_allclose(depth, [[0, 1.5, 65.534, 0]])
    shown = colour_depth(millimetres)
    assert (shown["missing"], round(shown["far"])) == (50, 65)
    view = replace(tiny_cues((1, 4), boxes={}), depth_HW=np.float32([[65.533, 65.534, 65.535, 70]]), valid_HW=None)
    assert encoded_depth(view).tolist() == [[65533, 65534, 0, 0]]


def test_photographs_of_other_software_are_opened_as_they_are_shown():
    turned = Image.Exif()
    turned[0x0112] = 6  # turn by 90 degrees clockwise
    image = open_image({"bytes": encoded("JPEG", exif=turned), "path": None})
    assert (image.size, image.mode) == ((24, 32), "RGB")


@pytest.mark.parametrize(
    ("picture", "kind", "pixels"),
    [
        (Image.fromarray(np.array([[0, 257, 32768, 65535]], np.uint16)), "PNG", [0, 1, 128, 255]),
        (Image.fromarray(np.array([[0, 257, 32768, 65535]], np.int32)), "TIFF", [0, 1, 128, 255]),
        (Image.new("RGBA", (4, 1), (0, 0, 0, 0)), "PNG", [255] * 4),
        (Image.new("CMYK", (4, 1), (0, 0, 0, 255)), "JPEG", [0] * 4),
        (Image.new("1", (4, 1), 1), "PNG", [255] * 4),
    ],
)
def test_every_kind_of_pixels_becomes_rgb(picture, kind, pixels):
    stream = io.BytesIO()
    picture.save(stream, kind)
    image = np.asarray(open_image({"bytes": stream.getvalue()}))
    assert image[0].tolist() == [[value] * 3 for value in pixels]


def test_pixels_without_a_known_range_are_an_error():
    for values in (np.full((2, 2), 0.5, np.float32), np.full((2, 2), 200, np.int32), np.full((2, 2), 70000, np.int32)):
        stream = io.BytesIO()
        Image.fromarray(values).save(stream, "TIFF")
        with pytest.raises(SpatialBoostError, match="no known range"):
            open_image({"bytes": stream.getvalue()})


def test_large_row_groups_are_pointed_out(folder, caplog, monkeypatch):
    monkeypatch.setattr(reader, "_LARGE_GROUP", 1000)
    open_rows([folder])
    assert "row groups of up to" in caplog.text
