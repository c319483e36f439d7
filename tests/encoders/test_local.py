"""Encoders in files and folders of this machine: which configuration each gets."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

import spatialboost as sb
from host_models import transformers_model
from spatialboost.encoders import open_encoder, read_tokens
from spatialboost.encoders.local import config_of
from spatialboost.errors import SpatialBoostError

PLAIN = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 2, "num_classes": 0}


def saved(model: torch.nn.Module, folder) -> str:
    file = folder / "model.safetensors"
    save_file({name: value.clone() for name, value in model.state_dict().items()}, file)
    return str(file)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"init_values": 0.5, "reg_tokens": 2},
        {"init_values": 0.5, "reg_tokens": 4, "no_embed_class": True},
        {"class_token": False, "global_pool": "avg", "fc_norm": False},
        {"mlp_ratio": 3, "qkv_bias": False, "num_classes": 5},
        {"global_pool": "avg", "num_classes": 5},
    ],
    ids=str,
)
def test_a_vit_in_one_file_is_known_by_the_shapes_of_its_tensors(more, tmp_path):
    torch.manual_seed(0)
    model = VisionTransformer(**{**PLAIN, **more}).eval()
    found = open_encoder(config_of(saved(model, tmp_path)))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(read_tokens(found, images).patches, read_tokens(model, images).patches)


def test_folders_that_timm_and_transformers_have_saved(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32, num_classes=0)
    (tmp_path / "timm").mkdir()
    saved(model, tmp_path / "timm")
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "model_args": {"depth": 1, "img_size": 32}}
    (tmp_path / "timm" / "config.json").write_text(json.dumps(config | {"pretrained_cfg": {}}))
    found = open_encoder(config_of(tmp_path / "timm"))
    assert torch.equal(found.state_dict()["blocks.0.attn.qkv.weight"], model.state_dict()["blocks.0.attn.qkv.weight"])

    transformers_model("Dinov2Model", "Dinov2Config").save_pretrained(tmp_path / "hf")
    assert config_of(str(tmp_path / "hf")).library == "hf"
    assert type(open_encoder(config_of(str(tmp_path / "hf")))).__name__ == "Dinov2Model"


def test_mistakes(tmp_path):
    with pytest.raises(
        SpatialBoostError, match=r"encoder is 'vit_small'; expected open_clip:NAME, timm:NAME.*a folder"
    ):
        config_of("vit_small")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpatialBoostError, match=r"has no config\.json"):
        config_of(tmp_path / "empty")
    file = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, file)
    with pytest.raises(SpatialBoostError, match=r"with the names and shapes of a ViT of timm; it has weight"):
        config_of(file)
    file.write_bytes(b"not a file of tensors")
    with pytest.raises(SpatialBoostError, match=r"cannot read .*other\.safetensors"):
        config_of(file)
    delta = sb.save_pretrained(sb.boost(VisionTransformer(**PLAIN)), tmp_path / "delta")
    with pytest.raises(SpatialBoostError, match="it is a delta: give its base"):
        config_of(delta)
