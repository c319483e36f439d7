"""What counts as self-attention of an image tower, and what is passed over."""

from __future__ import annotations

import pytest
from torch import nn

import spatialboost as sb
from host_models import HOSTS, SIZE, WIDTH, PlainAttention, Tower, boosted_names, timm_model, untouched
from spatialboost.boosting.find import find_attention


def test_nothing_to_boost_names_what_was_seen():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 8))
    with pytest.raises(sb.SpatialBoostError, match=r"no self-attention layer found in Sequential.*2 Linear"):
        sb.boost(model)
    assert untouched(model)


class CrossAttention(PlainAttention):
    def forward(self, x, context):
        return super().forward(x + context.mean(1, keepdim=True))


def test_only_cross_attention_found():
    with pytest.raises(
        sb.SpatialBoostError, match=r"blocks.0.attn \(CrossAttention\): cross-attention, by its class name"
    ):
        sb.boost(Tower(CrossAttention))


def test_text_tower_and_pooling_head_are_left_alone():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = sizes | {"image_size": SIZE, "patch_size": 16}
    config = transformers.SiglipConfig(text_config=sizes | {"vocab_size": 20}, vision_config=vision)
    model = sb.boost(transformers.SiglipModel(config))
    assert len(boosted_names(model)) == 1 and all("vision" in name for name in boosted_names(model))
    reasons = {name: reason for name, _, reason in sb.status(model).passed_over}
    assert any("text_model" in name and "no image tower" in reason for name, reason in reasons.items())
    assert any("pooling head" in reason for reason in reasons.values())


def test_attention_to_text_and_of_text_is_left_alone_in_a_detector():
    class TextToImageAttention(PlainAttention):
        def forward(self, vision_features, text_features):
            return super().forward(vision_features), super().forward(text_features)

    model = nn.Module()
    model.layers = nn.ModuleList([PlainAttention()])
    model.fusion, model.text_enhancer_layer = TextToImageAttention(), PlainAttention()
    assert boosted_names(sb.boost(model)) == ["layers.0"]
    reasons = {name: reason for name, _, reason in sb.status(model).passed_over}
    assert "asks for `text_features`" in reasons["fusion"] and "no image tower" in reasons["text_enhancer_layer"]


def test_timm_attention_pool_is_left_alone():
    model = timm_model("vit_base_patch16_siglip_224")
    assert {f.name for f in find_attention(model) if f.reason} == {"attn_pool"}
    assert boosted_names(sb.boost(model)) == ["blocks.0.attn", "blocks.1.attn"]


def test_indices_of_a_tower_with_stages():
    timm = pytest.importorskip("timm")
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=56, depths=(1, 1), num_heads=(2, 2), embed_dim=16, window_size=7
    )
    assert [f.index for f in find_attention(model)] == [0, 1]


def test_old_layout_of_transformers_is_read():
    model = sb.boost(HOSTS["generic_nested"].make())
    assert {f.family.heads(f.module) for f in find_attention(model)} == {2}
