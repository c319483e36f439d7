from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file

from spatialboost.encoders import open_encoder
from spatialboost.encoders.position_grid import resample_position_grid
from spatialboost.errors import SpatialBoostError

TINY = "vit_tiny_patch16_224"


def test_the_same_grid_stays_and_prefix_positions_are_kept():
    table = torch.randn(1, 2 + 16, 8)
    assert torch.allclose(resample_position_grid(table, 18, (4, 4)), table, atol=1e-6)
    other = resample_position_grid(table, 2 + 6, (2, 3))
    assert other.shape == (1, 8, 8) and torch.equal(other[:, :2], table[:, :2])


def test_rows_stay_rows():
    rows = torch.arange(4.0).repeat_interleave(4)[None, :, None]  # each position has the number of its row
    new = resample_position_grid(rows, 4 * 8, (8, 4)).view(8, 4)
    assert (new.std(1) < 1e-5).all() and (new[1:, 0] >= new[:-1, 0] - 1e-6).all()


def test_weights_of_another_image_size_are_loaded(tmp_path):
    own = timm.create_model(TINY, num_classes=0, depth=1)
    save_file(own.state_dict(), tmp_path / "own.safetensors")
    section = {"name": TINY, "weights": tmp_path / "own.safetensors", "kwargs": {"depth": 1, "img_size": 64}}
    encoder = open_encoder(section)
    assert torch.equal(encoder.blocks[0].attn.qkv.weight, own.blocks[0].attn.qkv.weight)
    assert torch.equal(encoder.pos_embed, resample_position_grid(own.pos_embed.detach(), 17, (4, 4)))
    with pytest.raises(SpatialBoostError, match="do not fit"):  # the width differs, not the image size
        open_encoder({**section, "name": "vit_small_patch16_224"})
