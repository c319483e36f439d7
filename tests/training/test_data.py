from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.utils.data import DataLoader

from spatialboost.encoders import prepare_images
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.reader import open_image, open_rows
from spatialboost.training import RowDataset, RowImages
from spatialboost.training.data import RowCollator, num_workers
from training_rows import SHAPE, build, make_rows, number_of


def grey_rows(count: int, bad=()) -> list[dict]:
    images = [np.full((32, 32, 3), i % 250, np.uint8) for i in range(count)]
    return [{"images": [image], "bad": i in bad} for i, image in enumerate(images)]


@pytest.fixture(scope="module")
def images() -> RowImages:
    return RowImages(VisionTransformer(**SHAPE), 32)


def test_rows_come_back_from_parquet(rows, parquet):
    read = open_rows([parquet])
    assert len(read) == len(rows)
    assert read[3]["images"][0]["bytes"] == rows[3]["images"][0]["bytes"] and read[3]["messages"] == rows[3]["messages"]
    with pytest.raises(SpatialBoostError, match="no parquet"):
        open_rows([parquet.parent])


@pytest.mark.parametrize("size", [32, 16])
def test_images_are_those_that_probing_sees(rows, parts, size):
    vlm, _, dataset = parts
    expected = prepare_images(vlm.encoder, [open_image(row["images"][0]) for row in rows], size)
    ours = RowDataset(rows, RowImages(vlm.encoder, size), dataset.make_example)
    assert torch.equal(torch.cat([ours[i]["pixel_values"] for i in range(len(rows))]), expected)


def test_nothing_is_read_before_it_is_needed(images):
    read = []

    class Rows(list):
        def __getitem__(self, number):
            read.append(number)
            return super().__getitem__(number)

    rows = Rows(grey_rows(9))
    dataset = RowDataset(rows, images, number_of)
    assert read == [] and len(dataset) == 9
    assert dataset[7]["number"] == 7 and read == [7]


def test_only_the_rows_asked_for_are_used(images):
    dataset = RowDataset(grey_rows(9), images, number_of, numbers=range(4, 7))
    assert [int(dataset[i]["row"]) for i in range(3)] == [4, 5, 6] and len(dataset) == 3
    with pytest.raises(IndexError):
        dataset[3]


def test_another_row_takes_the_place_of_a_bad_one_always_the_same(images, caplog):
    rows = grey_rows(20, bad=(3, 11))
    rows[5]["images"] = [{"bytes": b"not an image", "path": None}]
    rows[6]["images"] = [np.zeros((4, 4), np.uint8)]
    first, second = (RowDataset(rows, images, number_of) for _ in "ab")
    taken = [int(first[i]["row"]) for i in range(20)]
    assert [i for i in range(20) if taken[i] != i] == [3, 5, 6, 11] and not {3, 5, 6, 11} & set(taken)
    assert taken == [int(second[i]["row"]) for i in reversed(range(20))][::-1]
    assert first.skipped[3] == "ValueError: bad row 3" and set(first.skipped) == {3, 5, 6, 11}
    assert "not an image format" in first.skipped[5] and "expected uint8 (height, width, 3)" in first.skipped[6]
    first.warn_of_skipped()
    assert "1 rows left out: ValueError: bad row 3" in caplog.text


def test_rows_that_are_all_bad_are_an_error(images):
    dataset = RowDataset(grey_rows(3, bad=range(3)), images, number_of)
    for _ in "12":  # the second time, the rows are already marked as bad
        with pytest.raises(
            SpatialBoostError, match=r"3 of 3 rows were tried, and none can be used; the first: .*bad row"
        ):
            dataset[1]
    with pytest.raises(SpatialBoostError, match="no rows are given"):
        RowDataset([], images, number_of)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_worker_processes_give_the_same_and_tell_of_bad_rows(images, start):
    dataset = RowDataset(grey_rows(12, bad=(4,)), images, number_of)
    loader = DataLoader(dataset, batch_size=4, num_workers=2, collate_fn=RowCollator(), multiprocessing_context=start)
    batches = list(loader)
    assert dataset.skipped == {4: "ValueError: bad row 4"}
    alone = [RowCollator()([dataset[i] for i in range(start, start + 4)]) for start in (0, 4, 8)]
    assert all(torch.equal(ours[key], theirs[key]) for ours, theirs in zip(batches, alone, strict=True) for key in ours)


def test_a_dataset_pickles_without_the_encoder(parts):
    _, _, dataset = parts
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[3]["input_ids"], dataset[3]["input_ids"])
    dataset.features.open(parts[0].encoder, -1, image_size=(32, 32))
    assert pickle.loads(pickle.dumps(dataset)).features.encoder is None


def test_bad_rows_of_another_process_are_known(images):
    dataset = RowDataset(grey_rows(5), images, number_of)
    dataset.leave_out({2: "bad there"})
    assert int(dataset[2]["row"]) != 2 and dataset.skipped == {2: "bad there"}


def test_several_images_stay_in_order():
    rows = make_rows(3)
    rows[1]["images"] = rows[1]["images"] + rows[2]["images"]
    rows[1]["messages"][0]["content"] = "<image>\n" + rows[1]["messages"][0]["content"]
    _, _, dataset = build(rows)
    assert dataset[1]["pixel_values"].shape[0] == 2 and dataset[1]["visual_mask"].sum() == 8
    assert torch.equal(dataset[1]["pixel_values"][1], dataset[2]["pixel_values"][0])


def test_wrong_size_is_refused_before_decoding():
    with pytest.raises(SpatialBoostError, match="not a multiple"):
        RowImages(VisionTransformer(**SHAPE), 40)


def test_workers_are_as_many_as_asked_for_or_as_there_are_processors(monkeypatch):
    assert num_workers(3) == 3 and num_workers(0) == 0
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert num_workers(None) == 7
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert num_workers(None) == 0
