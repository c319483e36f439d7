from __future__ import annotations

import numpy as np
import pytest
import torch

from spatialboost.encoders import prepare_images, read_tokens
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.reader import open_image, open_rows
from spatialboost.training.data import ChatDataset, ImageStore, deal_answers, read_chat
from spatialboost.vlm import Collator
from training_rows import SHAPE, build, make_rows


def test_rows_come_back_from_parquet(rows, parquet):
    read = open_rows([parquet])
    assert len(read) == len(rows)
    assert read[3]["images"][0]["bytes"] == rows[3]["images"][0]["bytes"] and read[3]["messages"] == rows[3]["messages"]
    with pytest.raises(SpatialBoostError, match="no parquet shards"):
        open_rows([parquet.parent])


def test_images_are_those_that_prepare_images_gives(rows, parts):
    vlm, _, dataset = parts
    expected = prepare_images(vlm.encoder, [open_image(row["images"][0]) for row in rows], 32)
    assert torch.allclose(torch.cat([item["pixel_values"] for item in dataset]), expected, atol=1e-6)
    small = ImageStore(rows, vlm.encoder, 32, limit=10_000, progress=False)
    assert small.pixels is None and torch.equal(small.pixel_values(5), dataset.images.pixel_values(5))


@pytest.mark.parametrize("limit", [4e9, 1e3])
def test_features_are_what_the_encoder_gives(rows, parts, tmp_path, limit):
    vlm, _, dataset = parts
    images = ImageStore(rows, vlm.encoder, 32, limit=limit, progress=False)
    images.cache_features(vlm.encoder, -1, file=tmp_path / "features.npy", batch_size=5)
    assert (tmp_path / "features.npy").exists() == (limit < 1e6)
    for row in (0, 7, 23):
        expected = read_tokens(vlm.encoder, dataset.images.pixel_values(row)).patches
        assert torch.allclose(images.patch_features(row), expected, atol=1e-5 if limit > 1e6 else 5e-3)


def test_features_are_computed_once_for_an_encoder(parts):
    vlm, _, dataset = parts
    calls = []
    vlm.encoder.patch_embed.register_forward_hook(lambda *_: calls.append(1))
    for expected, layer in ((1, -1), (1, -1), (2, 0)):
        dataset.images.cache_features(vlm.encoder, layer)
        assert len(calls) == expected
    with torch.no_grad():
        vlm.encoder.norm.bias += 1
    dataset.images.cache_features(vlm.encoder, 0)
    assert len(calls) == 3


def test_features_give_the_loss_of_pixels(parts):
    vlm, _, dataset = parts
    dataset.images.cache_features(vlm.encoder, -1)
    collate = Collator(dataset.pad_token_id)
    pixels, features = (collate([dataset.with_features(use)[i] for i in range(4)]) for use in (False, True))
    assert "pixel_values" in pixels and "patch_features" in features
    assert torch.allclose(vlm(**pixels).loss, vlm(**features).loss, atol=1e-5)


def test_several_images_stay_in_order():
    rows = make_rows(3)
    rows[1]["images"] = rows[1]["images"] + rows[2]["images"]
    rows[1]["messages"][0]["content"] = "<image>\n" + rows[1]["messages"][0]["content"]
    _, _, dataset = build(rows)
    assert dataset[1]["pixel_values"].shape[0] == 2 and dataset[1]["visual_mask"].sum() == 8
    assert torch.equal(dataset[1]["pixel_values"][1], dataset[2]["pixel_values"][0])


def test_bad_rows_are_left_out_and_named(caplog):
    rows = make_rows(5)
    rows[1]["images"] = [{"bytes": b"not an image", "path": None}]
    rows[2]["messages"] = rows[2]["messages"][:1]
    rows[3]["images"] = []
    _, _, dataset = build(rows)
    assert dataset.rows == [0, 4] and set(dataset.skipped) == {1, 2, 3}
    assert (
        "no picture that PIL knows" in dataset.skipped[1]
        and "1 <image> marks, but there are 0 images" in dataset.skipped[3]
    )
    assert "rows left out" in caplog.text
    with pytest.raises(SpatialBoostError, match="no conversation can be used; the first reason: image"):
        build(rows, indices=[1])


def test_turns_are_chosen_by_kind(rows, parts):
    _, tokenizer, dataset = parts
    closer = ChatDataset(dataset.images, tokenizer, turns=["closer"])
    messages, kinds = closer.chats[0]
    assert kinds == ["closer"] and messages[0]["content"] == "<image>\n" + rows[0]["messages"][2]["content"]
    with pytest.raises(SpatialBoostError, match="no turn of kind size; there are closer, depth"):
        read_chat(rows[0], ["size"])
    with pytest.raises(SpatialBoostError, match="turns can only be chosen"):
        read_chat({**rows[0], "meta": "{}", "messages": rows[0]["messages"][1:3]}, ["depth"])


def test_dealt_answers_keep_the_words_and_move_all(rows):
    chats = {i: read_chat(row) for i, row in enumerate(rows)}
    dealt = deal_answers(chats, seed=0)
    for turn in (0, 1):
        answers, moved = ([c[i][0][2 * turn + 1]["content"] for i in range(len(rows))] for c in (chats, dealt))
        assert sorted(answers) == sorted(moved) and answers != moved
        assert all(dealt[i][0][2 * turn] == chats[i][0][2 * turn] for i in chats)
    assert dealt == deal_answers(chats, seed=0) != deal_answers(chats, seed=1)
    assert chats == {i: read_chat(row) for i, row in enumerate(rows)}
    # No answer stays: with answers that are all different, each must differ.
    unique = {
        i: ([{"role": "user", "content": "?"}, {"role": "assistant", "content": str(i)}], ["k"]) for i in range(9)
    }
    assert all(message[1]["content"] != str(i) for i, (message, _) in deal_answers(unique, 3).items())


def test_held_out_rows_are_never_tokenised_for_training(parts):
    _, tokenizer, dataset = parts
    part = ChatDataset(dataset.images, tokenizer, indices=range(4, 7))
    assert part.rows == [4, 5, 6] and torch.equal(part[0]["input_ids"], dataset[4]["input_ids"])


def test_wrong_size_is_refused_before_decoding(rows):
    from timm.models.vision_transformer import VisionTransformer

    with pytest.raises(SpatialBoostError, match="not a multiple"):
        ImageStore(rows, VisionTransformer(**SHAPE), 40, progress=False)


def test_a_dataset_without_our_columns_is_refused(tmp_path):
    import datasets

    (tmp_path / "d").mkdir()
    datasets.Dataset.from_dict({"image": [1]}).to_parquet(tmp_path / "d" / "a.parquet")
    with pytest.raises(SpatialBoostError, match=r"has no column \['images', 'messages'\]; it has \['image'\]"):
        open_rows([tmp_path / "d"])


def test_grey_arrays_are_refused():
    rows = make_rows(2)
    rows[0]["images"] = [np.zeros((4, 4), np.uint8)]
    _, _, dataset = build(rows)
    assert "expected uint8 (height, width, 3)" in dataset.skipped[0]


def test_processes_of_one_run_write_features_apart(rows, parts, tmp_path, monkeypatch):
    vlm, _, _ = parts
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        images = ImageStore(rows, vlm.encoder, 32, limit=1e3, progress=False)
        images.cache_features(vlm.encoder, -1, file=tmp_path / "features.npy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features0.npy", "features1.npy"]
