from __future__ import annotations

import pickle

import pytest
import torch

from spatialboost.encoders import read_tokens
from spatialboost.errors import SpatialBoostError
from spatialboost.training.data import RowCollator
from spatialboost.training.features import FeatureStore
from spatialboost.vlm import Collator


@pytest.fixture
def world(parts):
    """Encoder, data set that reads features, and a function that makes a batch of rows."""
    vlm, _, dataset = parts
    rows = dataset.with_features()
    collate = RowCollator(Collator(0), features=True)

    def batch(*numbers):
        return collate([rows[number] for number in numbers])

    return vlm.encoder.eval(), rows, batch


def open_store(world, **options) -> FeatureStore:
    encoder, rows, _ = world
    rows.features = FeatureStore(len(rows), **options)
    rows.features.open(encoder, -1, image_size=(32, 32))
    return rows.features


@pytest.mark.parametrize("limit", [4e9, 1e3])
def test_features_are_what_the_encoder_gives(world, limit):
    encoder, rows, batch = world
    store = open_store(world, limit=limit)
    pixels = torch.cat([rows.with_features(False)[i]["pixel_values"] for i in (7, 0, 23)])
    expected = read_tokens(encoder, pixels).patches.detach()
    for _ in "ab":  # computed, then read
        found = store.complete(batch(7, 0, 23))["patch_features"]
        assert torch.equal(found, expected) == (limit > 1e6) and torch.allclose(found, expected, atol=5e-3)


def test_an_image_is_read_and_decoded_once(world):
    encoder, _, batch = world
    seen = []
    encoder.patch_embed.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    store = open_store(world)
    store.complete(batch(0, 1))
    second = batch(1, 2)
    assert second["feature_counts"].tolist() == [-1, 1] and len(second["pixel_values"]) == 1
    store.complete(second)
    assert seen == [2, 1]
    third = batch(0, 1, 2)
    assert "pixel_values" not in third
    store.complete(third)
    assert seen == [2, 1]


def test_features_of_another_encoder_layer_or_size_are_not_taken(world):
    encoder, _, batch = world
    store = open_store(world)
    store.complete(batch(0))
    store.open(encoder, -1, image_size=(32, 32))
    assert store.has(0)
    store.open(encoder, 0, image_size=(32, 32))
    assert not store.has(0)
    store.open(encoder, -1, image_size=(64, 64))
    assert not store.has(0)
    with torch.no_grad():
        encoder.norm.bias += 1
    store.open(encoder, -1, image_size=(32, 32))
    assert not store.has(0)


def test_each_process_fills_its_share_at_once(world, monkeypatch, tmp_path):
    _, rows, _ = world
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    open_store(world, folder=tmp_path)
    rows.fill_features(batch_size=5)
    assert [number for number in range(24) if rows.features.has(number)] == list(range(1, 24, 3))


def test_files_of_other_processes_are_read_also_when_there_are_fewer_now(world, monkeypatch, tmp_path):
    _, rows, _ = world
    for rank in "012":
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "3")
        open_store(world, folder=tmp_path)
        rows.fill_features()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    store = open_store(world, folder=tmp_path)
    assert all(store.has(number) for number in range(24))
    monkeypatch.setattr(store, "_compute", lambda pixels: pytest.fail("the encoder reads an image again"))
    assert store.complete(RowCollator(Collator(0), features=True)([rows[5], rows[7]]))["patch_features"].shape[0] == 2


def test_several_images_of_a_row_and_none(parts):
    vlm, _, _ = parts
    store = FeatureStore(3)
    store.open(vlm.encoder, -1, image_size=(32, 32))
    pixels = torch.randn(3, 3, 32, 32)
    given = {"feature_rows": torch.tensor([2, 0, 1]), "feature_counts": torch.tensor([2, 0, 1]), "pixel_values": pixels}
    features = store.complete(given)["patch_features"]
    assert torch.allclose(features, read_tokens(vlm.encoder, pixels).patches, atol=1e-5)
    assert [len(store.read(row)) for row in range(3)] == [0, 1, 2]
    assert torch.equal(store.read(2), features[:2]) and torch.equal(store.read(1), features[2:])


def test_the_next_process_goes_on_with_the_files_of_a_killed_one(world, tmp_path):
    encoder, rows, batch = world
    store = open_store(world, folder=tmp_path)
    first = store.complete(batch(3, 4))["patch_features"]
    (data,) = tmp_path.glob("*.features")
    with data.open("ab") as file:
        file.write(b"half an image")  # written, but not in the index
    encoder.patch_embed.register_forward_hook(lambda *_: seen.append(1))
    seen: list[int] = []
    again = open_store(world, folder=tmp_path)
    assert torch.equal(again.complete(batch(3, 4))["patch_features"], first) and not seen
    expected = read_tokens(encoder, rows.with_features(False)[5]["pixel_values"]).patches
    assert torch.allclose(again.complete(batch(5))["patch_features"], expected, atol=1e-5)


def test_a_store_of_its_own_leaves_nothing_behind(world):
    store = open_store(world)
    folder = store.folder
    assert folder.exists() and pickle.loads(pickle.dumps(store)).has(0) is False
    world[1].features = None
    del store
    assert not folder.exists()


def test_a_store_that_is_not_open_says_so(world):
    with pytest.raises(SpatialBoostError, match="call open"):
        FeatureStore(4).complete(world[2](0))
