from __future__ import annotations

import pytest
import torch

from spatialboost.errors import SpatialBoostError
from spatialboost.vlm.chat import encode_chat
from spatialboost.vlm.collate import Collator
from spatialboost.vlm.llms import build_tokenizer


def rows(chat):
    tokenizer = build_tokenizer([chat])
    return [encode_chat(messages, tokenizer, num_visual_tokens=4) for messages in (chat, chat[:2])]


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_goes_to_its_side_and_is_masked(chat, side):
    long, short = rows(chat)
    batch = Collator(0, side)([long, short])
    size = len(short["input_ids"])
    kept = slice(0, size) if side == "right" else slice(-size, None)
    for name, fill in {"input_ids": 0, "labels": -100, "visual_mask": False, "turns": -1}.items():
        assert batch[name][0].equal(long[name]) and batch[name][1, kept].equal(short[name])
        padding = batch[name][1, size:] if side == "right" else batch[name][1, :-size]
        assert (padding == fill).all()
    assert batch["attention_mask"].sum(1).tolist() == [len(long["input_ids"]), size]
    assert batch["attention_mask"][1, kept].all()


def test_images_follow_each_other(chat):
    long, short = rows(chat)
    images = torch.arange(3.0)[:, None, None, None].expand(3, 3, 2, 2)
    batch = Collator(0)([long | {"pixel_values": images[:1]}, short | {"pixel_values": images[1:]}])
    assert batch["pixel_values"].equal(images)


def test_sizes_must_agree(chat):
    long, short = rows(chat)
    with pytest.raises(SpatialBoostError, match="resize all images to one size"):
        Collator(0)(
            [long | {"pixel_values": torch.zeros(1, 3, 2, 2)}, short | {"pixel_values": torch.zeros(1, 3, 4, 4)}]
        )
