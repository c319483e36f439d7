from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from spatialboost.encoders import normalisation, num_layers
from spatialboost.errors import SpatialBoostError
from spatialboost.training.build import build_encoder
from spatialboost.training.config import EncoderConfig
from training_rows import SHAPE

HALF = (0.5, 0.5, 0.5)


def test_weights_and_normalisation_are_taken(tmp_path):
    first = build_encoder(EncoderConfig(name="VisionTransformer", kwargs=SHAPE))
    save_file({name: value.half() for name, value in first.state_dict().items()}, tmp_path / "w.safetensors")
    config = EncoderConfig(
        name="VisionTransformer", kwargs=SHAPE, weights=tmp_path / "w.safetensors", mean=HALF, std=HALF
    )
    second = build_encoder(config)
    assert torch.equal(second.pos_embed, first.pos_embed.half().float()) and not second.training
    assert normalisation(second) == (HALF, HALF)
    other = {**SHAPE, "depth": 1}
    with pytest.raises(SpatialBoostError, match=r"do not fit VisionTransformer: .*blocks.1"):
        build_encoder(EncoderConfig(name="VisionTransformer", kwargs=other, weights=tmp_path / "w.safetensors"))
    with pytest.raises(SpatialBoostError, match=r"cannot read encoder.weights .*none"):
        build_encoder(EncoderConfig(name="VisionTransformer", kwargs=SHAPE, weights=tmp_path / "none"))


def test_named_encoders(tmp_path, caplog):
    encoder = build_encoder(EncoderConfig(name="vit_tiny_patch16_224", kwargs={"depth": 1}))
    assert num_layers(encoder) == 1 and "has random weights" in caplog.text
    with pytest.raises(SpatialBoostError, match='timm has no model "vit_tiny_patch16_225"; close to it: vit_tiny'):
        build_encoder(EncoderConfig(name="vit_tiny_patch16_225"))


def test_transformers_folder_gives_its_vision_model(tmp_path):
    from transformers import SiglipConfig, SiglipModel

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": 9, "max_position_embeddings": 8}
    SiglipModel(
        SiglipConfig(text_config=text, vision_config={**small, "image_size": 32, "patch_size": 16})
    ).save_pretrained(tmp_path)
    encoder = build_encoder(EncoderConfig(library="transformers", name=str(tmp_path)))
    assert type(encoder).__name__ in ("SiglipVisionModel", "SiglipVisionTransformer") and num_layers(encoder) == 1
    with pytest.raises(SpatialBoostError, match='cannot load the encoder "/nowhere"'):
        build_encoder(EncoderConfig(library="transformers", name="/nowhere"))
