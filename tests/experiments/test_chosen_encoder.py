"""The image size and the pooling at which an encoder gives the wanted number of visual tokens."""

from __future__ import annotations

import pytest
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from spatialboost.errors import SpatialBoostError
from spatialboost.experiments import chosen_encoder
from spatialboost.experiments.chosen_encoder import choose_encoder


@pytest.mark.parametrize(
    ("patch", "size", "expected"), [(14, 56, (112, 1)), (16, 64, (128, 1)), (8, 64, (128, 2)), (32, 64, (256, 1))]
)
def test_a_vit_gets_the_size_next_to_the_wanted_one(patch, size, expected, tmp_path):
    model = VisionTransformer(img_size=size, patch_size=patch, embed_dim=64, depth=1, num_heads=1, num_classes=0)
    save_file(model.state_dict(), tmp_path / "vit.safetensors")
    chosen = choose_encoder(str(tmp_path / "vit.safetensors"), side=8, near=128)
    assert (chosen.image_size, chosen.pool) == expected
    assert chosen.section["kwargs"]["img_size"] == chosen.image_size


def test_an_encoder_that_cannot_give_the_tokens(tmp_path, monkeypatch):
    def refuse(encoder, images):
        raise SpatialBoostError(f"images of {images.shape[-1]} px are not read")

    monkeypatch.setattr(chosen_encoder, "read_tokens", refuse)
    model = VisionTransformer(img_size=64, patch_size=16, embed_dim=64, depth=1, num_heads=1, num_classes=0)
    save_file(model.state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(
        SpatialBoostError, match=r"cannot give 8 x 8 visual tokens: at 128 px: images of 128 px are not"
    ):
        choose_encoder(str(tmp_path / "vit.safetensors"), side=8, near=128)
