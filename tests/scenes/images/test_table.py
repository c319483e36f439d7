from __future__ import annotations

import io
import os
import pickle
import tarfile

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.images.table import TableImages
from spatialboost.scenes.source_registry import SourceOptions, open_source

network = pytest.mark.skipif(
    not os.environ.get("SPATIALBOOST_NETWORK"), reason="set SPATIALBOOST_NETWORK=1 to download from the Hub"
)


def encoded(number: int) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(noise).resize((64, 48)).save(file, "PNG")
    return file.getvalue()


def decoded(number: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded(number))))


@pytest.fixture(scope="module")
def photos():
    """Seven rows with images and captions, as users of the library `datasets` have them."""
    images = [{"bytes": encoded(number), "path": f"{number}.png"} for number in range(7)]
    rows = datasets.Dataset.from_dict({"caption": [f"number {number}" for number in range(7)], "photo": images})
    return rows.cast_column("photo", datasets.Image())


def same_images(views) -> None:
    assert len(views) == 7
    for number in (6, 0, 3):
        assert (views[number].image_HW3 == decoded(number)).all()


def test_a_saved_data_set_is_read_where_it_lies(photos, tmp_path):
    photos.select([6, 5, 4, 3, 2, 1, 0]).select(range(6, -1, -1)).save_to_disk(tmp_path / "photos")
    views = TableImages(tmp_path / "photos")
    same_images(views)
    assert (views.column, views.name, views[2].source) == ("photo", "dataset photos photo 480 px or less", "photos/2")
    same_images(pickle.loads(pickle.dumps(views)))


def test_parquet_files_are_one_data_set_in_natural_order(photos, tmp_path):
    for number, rows in ((10, range(4, 7)), (9, range(2, 4)), (8, range(2))):
        (tmp_path / "data").mkdir(exist_ok=True)
        photos.select(rows).to_parquet(tmp_path / "data" / f"train-{number}.parquet", batch_size=2)
    (tmp_path / "data" / "._train-1.parquet").write_bytes(b"x")
    views = open_source("dataset", SourceOptions(path=tmp_path))
    same_images(views)
    same_images(pickle.loads(pickle.dumps(views)))
    some = open_source("dataset", SourceOptions(path=tmp_path, num=3, size=24))
    assert [view.source for view in map(some.__getitem__, range(3))] == [f"{tmp_path.name}/{n}" for n in (0, 3, 6)]
    assert some[0].image_HW3.shape == (24, 32, 3)


def test_files_of_other_software_may_have_structs_or_bytes(tmp_path):
    content = [encoded(number) for number in range(7)]
    structs = pa.array([{"bytes": each, "path": None} for each in content])
    pq.write_table(pa.table({"id": range(7), "image": structs}), tmp_path / "structs.parquet")
    pq.write_table(pa.table({"id": range(7), "jpg": content}), tmp_path / "bytes.parquet")
    for name, column in (("structs", "image"), ("bytes", "jpg")):
        views = TableImages(tmp_path / f"{name}.parquet")
        same_images(views)
        assert views.column == column


def test_a_bad_row_is_named_and_costs_no_other(tmp_path):
    rows = [
        {"bytes": encoded(0), "path": None},
        {"bytes": b"nothing", "path": None},
        {"bytes": None, "path": "/etc/hostname"},
        {"bytes": None, "path": None},
        None,
    ]
    pq.write_table(pa.table({"image": pa.array(rows)}), tmp_path / "mixed.parquet")
    views = TableImages(tmp_path / "mixed.parquet")
    assert (views[0].image_HW3 == decoded(0)).all()
    for number, message in (
        (1, "/1: an image of 7 bytes cannot be read"),
        (2, r"/2 \(/etc/hostname\): the data set has only the path of this image, not its bytes"),
        (3, "/3: the column image has NoneType, expected an image"),
        (4, "/4: the column image has NoneType, expected an image"),
    ):
        with pytest.raises(CuesError, match=message):
            views[number]
    with pytest.raises(IndexError, match="row 5 of 5"):
        views[5]


def test_the_column_is_found_or_chosen(tmp_path):
    two = {name: pa.array([{"bytes": encoded(number), "path": None}]) for number, name in enumerate(("left", "right"))}
    pq.write_table(pa.table({**two, "text": ["x"]}), tmp_path / "two.parquet")
    path = tmp_path / "two.parquet"
    with pytest.raises(SpatialBoostError, match="has the image columns left, right; choose one of them with `column`"):
        TableImages(path)
    assert (open_source("dataset", SourceOptions(path=path, column="right"))[0].image_HW3 == decoded(1)).all()
    with pytest.raises(SpatialBoostError, match=r"unknown column 'rigth'; .* Did you mean 'right'\?"):
        TableImages(path, column="rigth")
    with pytest.raises(SpatialBoostError, match=r"the column 'text' of .* has string, expected images"):
        TableImages(path, column="text")
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "none.parquet")
    with pytest.raises(SpatialBoostError, match="has no image column, but text; expected a column of images"):
        TableImages(tmp_path / "none.parquet")


def test_tar_files_are_read_by_this_source_too(tmp_path):
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        member = tarfile.TarInfo("0.png")
        member.size = len(encoded(0))
        tar.addfile(member, io.BytesIO(encoded(0)))
    for path in (tmp_path, tmp_path / "shard.tar"):
        assert (open_source("dataset", SourceOptions(path=path))[0].image_HW3 == decoded(0)).all()


def test_what_is_no_data_set_is_one_clear_line(photos, tmp_path):
    datasets.DatasetDict({"train": photos, "test": photos}).save_to_disk(tmp_path / "both")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.parquet").write_bytes(b"nothing")
    photos.to_parquet(tmp_path / "bad2" / "a.parquet")
    pq.write_table(pa.table({"id": [1]}), tmp_path / "bad2" / "b.parquet")
    photos.save_to_disk(tmp_path / "torn")
    next((tmp_path / "torn").glob("*.arrow")).write_bytes(b"x")
    for path, message in (
        ("both", r"has the splits test, train; give the folder of one of them"),
        ("empty", "has no parquet file and is not of `save_to_disk`; expected"),
        ("missing/also", "does not exist; expected a folder of `save_to_disk`"),
        ("bad", "cannot be read as parquet"),
        ("bad2", r"b\.parquet has the columns id, but a\.parquet has caption, photo"),
        ("torn", "the data set .*torn cannot be opened"),
    ):
        with pytest.raises(SpatialBoostError, match=message):
            open_source("dataset", SourceOptions(path=tmp_path / path))


def test_nothing_is_downloaded_unless_the_name_says_so(monkeypatch):
    def ask(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(datasets, "load_dataset", ask)
    monkeypatch.setattr(datasets, "get_dataset_split_names", ask)
    with pytest.raises(
        SpatialBoostError, match=r"there is no folder food/nobody-has-this; to download .* give hf:food/n"
    ):
        TableImages("food/nobody-has-this")
    with pytest.raises(SpatialBoostError, match="the data set hf:food/x cannot be opened: the network was asked"):
        TableImages("hf:food/x")
    with pytest.raises(SpatialBoostError, match="hf:food is no data set; expected hf:USER/NAME"):
        TableImages("hf:food")
    with pytest.raises(SpatialBoostError, match="source dataset needs a path"):
        open_source("dataset", SourceOptions())


def test_a_data_set_of_the_hub_is_one_of_its_splits(photos, monkeypatch):
    """The library `datasets` itself downloads; here its two functions are replaced by what they return."""
    asked = []
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, revision: ["validation", "train"])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **options: asked.append((name, options)) or photos)
    views = TableImages("hf:me/photos@v1:validation")
    TableImages("hf:me/photos")
    assert asked == [
        ("me/photos", {"split": "validation", "revision": "v1"}),
        ("me/photos", {"split": "train", "revision": None}),
    ]
    same_images(views)
    assert views.provenance == {"model": "me/photos:validation", "revision": "v1", "licence": "unknown"}
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, revision: ["a", "b"])
    with pytest.raises(SpatialBoostError, match="has the splits a, b; give one of them: hf:me/photos:SPLIT"):
        TableImages("hf:me/photos")


@network
def test_a_small_data_set_of_the_hub():
    views = TableImages("hf:hf-internal-testing/fixtures_image_utils:test")
    assert views[0].image_HW3.shape[2] == 3
