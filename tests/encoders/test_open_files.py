from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2Model

import spatialboost as sb
from spatialboost.boosting.channel import boosted_layers
from spatialboost.encoders import open_encoder
from spatialboost.errors import SpatialBoostError

TINY = "vit_tiny_patch16_224"


def test_weights_of_a_file_and_position_grid_of_the_size(tmp_path: Path) -> None:
    torch.manual_seed(3)
    own = timm.create_model(TINY, num_classes=0)
    save_file(own.half().state_dict(), tmp_path / "own.safetensors")
    encoder = open_encoder(f"timm:{TINY}", weights=tmp_path / "own.safetensors", image_size=64)
    assert torch.equal(encoder.blocks[0].attn.qkv.weight, own.blocks[0].attn.qkv.weight.float())
    assert encoder.pos_embed.shape[1] == 1 + 16 and not encoder.training
    with pytest.raises(SpatialBoostError, match="do not fit vit_small"):
        open_encoder("timm:vit_small_patch16_224", weights=tmp_path / "own.safetensors")
    Dinov2Model(Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(tmp_path)
    other = Dinov2Model(Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    tower = open_encoder(f"hf:{tmp_path}", weights=tmp_path / "other.safetensors").state_dict()
    assert all(torch.equal(value, tower[name]) for name, value in other.state_dict().items())
    with pytest.raises(SpatialBoostError, match=r"encoder.weights .*own.safetensors do not fit"):
        open_encoder(f"hf:{tmp_path}", weights=tmp_path / "own.safetensors")


def test_a_delta_goes_onto_the_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    delta = sb.save_pretrained(sb.boost(timm.create_model(TINY, num_classes=0)), tmp_path)
    encoder = open_encoder(f"timm:{TINY}", pretrained=False, delta=str(delta))  # random weights are those of seed 0
    assert len(boosted_layers(encoder)) == 12


def test_the_encoder_of_a_training_run(tmp_path: Path) -> None:
    pytest.importorskip("pydantic")
    config = tmp_path / "run.yaml"
    config.write_text(
        f"out: {tmp_path / 'run'}\ndata: {{folders: [rooms]}}\nencoder:\n  name: VisionTransformer\n  kwargs: "
        "{img_size: 32, patch_size: 8, embed_dim: 48, depth: 2, num_heads: 2, num_classes: 0}\n"
    )
    with pytest.raises(SpatialBoostError, match="this run has no delta yet"):
        open_encoder(str(config), image_size=32)
    base = open_encoder(yaml.safe_load(config.read_text())["encoder"])
    sb.save_pretrained(sb.boost(base), tmp_path / "run" / "stage3" / "delta")
    assert len(boosted_layers(open_encoder(str(config), image_size=32))) == 2


def test_a_transformers_folder(tmp_path: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    own = Dinov2Model(Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28))
    own.save_pretrained(tmp_path / "model")
    encoder = open_encoder(f"hf:{tmp_path / 'model'}")
    assert torch.equal(encoder.embeddings.cls_token, own.embeddings.cls_token)
    with pytest.raises(SpatialBoostError, match="cannot get 'hf:"):
        open_encoder(f"hf:{tmp_path / 'nowhere'}")
