from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)

from spatialboost.encoders import (
    feature_dim,
    feature_layer,
    normalisation,
    num_layers,
    patch_size,
    prepare_images,
    read_tokens,
)
from spatialboost.encoders.images import CLIP, HALF, IMAGENET
from spatialboost.errors import SpatialBoostError

SHAPE = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 2, "num_classes": 0}
CONFIG = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 96,
}

# name -> encoder, has a class token, normalisation
ENCODERS = {
    "timm": (lambda: VisionTransformer(**SHAPE), True, IMAGENET),
    "timm registers": (lambda: VisionTransformer(**SHAPE, reg_tokens=4), True, IMAGENET),
    "timm no cls": (lambda: VisionTransformer(**SHAPE, class_token=False, global_pool="avg"), False, IMAGENET),
    "timm eva": (lambda: Eva(**SHAPE, use_rot_pos_emb=True), True, IMAGENET),
    "vit": (lambda: ViTModel(ViTConfig(**CONFIG), add_pooling_layer=False), True, HALF),
    "dinov2": (lambda: Dinov2Model(Dinov2Config(**CONFIG)), True, IMAGENET),
    "dinov2 registers": (lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**CONFIG)), True, IMAGENET),
    "dinov3": (lambda: DINOv3ViTModel(DINOv3ViTConfig(**CONFIG, num_register_tokens=4)), True, IMAGENET),
    "clip": (lambda: CLIPVisionModel(CLIPVisionConfig(**CONFIG)), True, CLIP),
    "siglip": (lambda: SiglipVisionModel(SiglipVisionConfig(**CONFIG)), False, HALF),
}


@pytest.fixture(params=ENCODERS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, bool, tuple]:
    torch.manual_seed(0)
    build, has_cls, expected = ENCODERS[request.param]
    return build().eval(), has_cls, expected


def test_sizes_and_normalisation_are_read(case):
    encoder, _, expected = case
    assert (feature_dim(encoder), patch_size(encoder), num_layers(encoder)) == (48, 8, 3)
    assert normalisation(encoder) == expected


def test_patches_leave_out_class_and_register_tokens(case):
    encoder, has_cls, _ = case
    tokens = read_tokens(encoder, torch.randn(2, 3, 32, 32))
    assert tokens.patches.shape == (2, 16, 48) and tokens.grid == (4, 4)
    assert (tokens.cls is not None) == has_cls


def test_patch_order_is_row_by_row(case):
    # The patch whose pixels change is the one whose token changes most.
    encoder, _, _ = case
    grey = torch.zeros(1, 3, 32, 32)
    changed = grey.clone()
    changed[:, :, 8:16, 24:32] = 3.0  # second row, fourth column
    difference = (read_tokens(encoder, changed, layer=0).patches - read_tokens(encoder, grey, layer=0).patches).norm(
        dim=-1
    )
    assert difference.argmax() == 1 * 4 + 3


def test_layers_differ_and_negative_ones_count_from_the_end(case):
    encoder, _, _ = case
    images = torch.randn(1, 3, 32, 32)
    last, before = read_tokens(encoder, images).patches, read_tokens(encoder, images, layer=-2).patches
    assert not torch.allclose(last, before)
    assert torch.equal(before, read_tokens(encoder, images, layer=1).patches)
    assert torch.equal(last, read_tokens(encoder, images, layer=2).patches)


def test_gradients_flow_and_only_through_the_blocks_below(case):
    encoder, _, _ = case
    read_tokens(encoder, torch.randn(1, 3, 32, 32), layer=1).patches.square().mean().backward()
    with_grad = {
        index
        for index in range(3)
        for name, value in encoder.named_parameters()
        if any(f"{stem}.{index}." in name for stem in ("blocks", "layers", "layer")) and value.grad is not None
    }
    assert with_grad == {0, 1}


def test_timm_last_layer_is_what_forward_features_gives():
    encoder = VisionTransformer(**SHAPE).eval()
    images = torch.randn(2, 3, 32, 32)
    tokens, features = read_tokens(encoder, images), encoder.forward_features(images)
    assert torch.equal(tokens.patches, features[:, 1:]) and torch.equal(tokens.cls, features[:, 0])


def test_transformers_towers_take_another_size():
    encoder = Dinov2Model(Dinov2Config(**CONFIG)).eval()
    assert read_tokens(encoder, torch.randn(1, 3, 48, 64)).grid == (6, 8)
    encoder = CLIPVisionModel(CLIPVisionConfig(**CONFIG)).eval()
    assert read_tokens(encoder, torch.randn(1, 3, 48, 64)).patches.shape == (1, 48, 48)


def test_images_are_squeezed_and_normalised():
    encoder = VisionTransformer(**SHAPE)
    white = np.full((20, 50, 3), 255, np.uint8)
    pixels = prepare_images(encoder, [white, Image.fromarray(white).convert("L")], (32, 16))
    assert pixels.shape == (2, 3, 32, 16) and torch.equal(pixels[0], pixels[1])
    assert torch.allclose(pixels[0, :, 0, 0], (1 - torch.tensor(IMAGENET[0])) / torch.tensor(IMAGENET[1]))
    encoder.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    assert torch.allclose(prepare_images(encoder, [white], 32), torch.ones(1, 3, 32, 32))


def test_mistakes_are_named():
    encoder = VisionTransformer(**SHAPE)
    with pytest.raises(SpatialBoostError, match="multiple of the encoder's patch size 8"):
        prepare_images(encoder, [], 30)
    with pytest.raises(SpatialBoostError, match=r"float64 \(4, 4\); expected uint8"):
        prepare_images(encoder, [np.zeros((4, 4))], 32)
    with pytest.raises(SpatialBoostError, match="give -3 to 2"):
        feature_layer(encoder, 3)
    with pytest.raises(SpatialBoostError, match=r"expected \(images, 3, height, width\)"):
        read_tokens(encoder, torch.zeros(3, 32, 32))
    with pytest.raises(SpatialBoostError, match="do not divide into patches of 8"):
        read_tokens(encoder, torch.zeros(1, 3, 30, 30))
    with pytest.raises(SpatialBoostError, match="img_size="):
        read_tokens(encoder, torch.zeros(1, 3, 40, 40))
    with pytest.raises(SpatialBoostError, match="Sequential"):
        feature_dim(nn.Sequential())
    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 9}
    with pytest.raises(SpatialBoostError, match="vision_model"):
        feature_dim(CLIPModel(CLIPConfig(text_config=text, vision_config=CONFIG)))
