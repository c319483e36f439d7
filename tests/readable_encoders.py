"""Tiny random encoders of every kind that `read_tokens` reads; a new kind is a new row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
from timm.models.eva import Eva
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import hub_dino
from host_models import torchvision_vit, transformers_model
from hub_models import ClipVisionTransformer, DinoVisionTransformer

PLAIN = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 2, "num_classes": 0}
CONFIG = {"image_size": 32, "patch_size": 8, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
CONFIG |= {"intermediate_size": 96}
STAGES = {"embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "patch_size": 4, "image_size": 64}


@dataclass(frozen=True)
class Readable:
    """One row: how to build the encoder, and the expected tokens at its own image size."""

    build: Callable[[], nn.Module]
    size: tuple[int, int] = (32, 32)
    grid: tuple[int, int] = (4, 4)
    width: int = 48
    patch: int = 8
    layers: int = 3
    cls: bool = True
    hierarchical: bool = False

    def make(self) -> nn.Module:
        torch.manual_seed(0)
        return self.build().eval()


def hf(model: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: transformers_model(model, config, bare=True, **(CONFIG | options))


def hf_stages(model: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: transformers_model(model, config, bare=True, **options)


def timm_stages(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=0, **options)


def naflex() -> nn.Module:
    sizes = {"patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 2, "reg_tokens": 2, "class_token": True}
    return NaFlexVit(cfg=NaFlexVitCfg(**sizes, pos_embed_grid_size=(4, 4)), num_classes=0)


def mvit() -> nn.Module:
    from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg

    return MultiScaleVit(MultiScaleVitCfg(depths=(1, 1), embed_dim=16, stride_q=((1, 1), (2, 2))), 224, num_classes=0)


def open_clip_vit() -> nn.Module:
    module = pytest.importorskip("open_clip.transformer")
    return module.VisionTransformer(32, 8, 48, 3, 2, 2.0, output_dim=16)


def open_clip_timm() -> nn.Module:
    module = pytest.importorskip("open_clip.timm_model")
    tower = module.TimmModel("vit_tiny_patch16_224", embed_dim=16, image_size=32)
    tower.trunk = VisionTransformer(**PLAIN)
    return tower


def torchvision_swin() -> nn.Module:
    models = pytest.importorskip("torchvision.models.swin_transformer")
    return models.SwinTransformer([4, 4], 16, [1, 1], [1, 2], [4, 4], num_classes=4)


def headed() -> nn.Module:
    return transformers_model("ViTForImageClassification", "ViTConfig", bare=True, **CONFIG)


def wrapped() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    args = {"img_size": 32, "depth": 3, "embed_dim": 48, "num_heads": 2, "patch_size": 8}
    config = transformers.TimmWrapperConfig(architecture="vit_tiny_patch16_224", model_args=args)
    return transformers.TimmWrapperModel(config)


ONE = {"size": (64, 64), "grid": (8, 8), "width": 32, "layers": 2, "cls": False, "hierarchical": True}

READABLE = {
    "timm": Readable(lambda: VisionTransformer(**PLAIN)),
    "timm registers": Readable(lambda: VisionTransformer(**PLAIN, reg_tokens=4)),
    "timm no cls": Readable(lambda: VisionTransformer(**PLAIN, class_token=False, global_pool="avg"), cls=False),
    "timm wide": Readable(lambda: VisionTransformer(**(PLAIN | {"img_size": (32, 48)})), (32, 48), (4, 6)),
    "timm eva": Readable(lambda: Eva(**PLAIN, use_rot_pos_emb=True)),
    "timm naflex": Readable(naflex),
    "timm beit": Readable(
        timm_stages("beit_base_patch16_224", img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=2)
    ),
    "timm distilled": Readable(
        timm_stages("deit_tiny_distilled_patch16_224", img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=2)
    ),
    "timm cait": Readable(
        timm_stages("cait_xxs24_224", img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=2), cls=False
    ),
    "timm relative": Readable(
        timm_stages("vit_relpos_small_patch16_224", img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=2),
        cls=False,
    ),
    "timm swin": Readable(
        timm_stages(
            "swin_tiny_patch4_window7_224", img_size=64, window_size=4, depths=(1, 1), num_heads=(1, 2), embed_dim=16
        ),
        **ONE,
    ),
    "timm hiera": Readable(
        timm_stages("hiera_tiny_224", img_size=(64, 64), stages=(1, 1, 1, 1), embed_dim=8),
        (64, 64), (2, 2), 64, 32, 4, cls=False, hierarchical=True,
    ),
    "timm pvt": Readable(
        timm_stages("pvt_v2_b0", depths=(1, 1, 1, 1), embed_dims=(8, 16, 16, 32), num_heads=(1, 1, 1, 2)),
        (64, 64), (2, 2), 32, 32, 4, cls=False, hierarchical=True,
    ),
    "timm levit": Readable(
        timm_stages("levit_128s", embed_dim=(16, 32), key_dim=8, depth=(1, 1), num_heads=(2, 2)),
        (224, 224), (7, 7), 32, 32, 3, cls=False, hierarchical=True,
    ),
    "timm mvit": Readable(
        mvit,
        (224, 224), (28, 28), 32, 8, 2, cls=False, hierarchical=True,
    ),
    "vit": Readable(hf("ViTModel", "ViTConfig")),
    "vit with a head": Readable(headed),
    "deit": Readable(hf("DeiTModel", "DeiTConfig")),
    "beit": Readable(hf("BeitModel", "BeitConfig")),
    "data2vec": Readable(hf("Data2VecVisionModel", "Data2VecVisionConfig", out_indices=[0, 1, 2, 2])),
    "dinov2": Readable(hf("Dinov2Model", "Dinov2Config")),
    "dinov2 registers": Readable(hf("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig")),
    "dinov3": Readable(hf("DINOv3ViTModel", "DINOv3ViTConfig", num_register_tokens=4)),
    "clip": Readable(hf("CLIPVisionModel", "CLIPVisionConfig")),
    "siglip": Readable(hf("SiglipVisionModel", "SiglipVisionConfig"), cls=False),
    "siglip with a rest": Readable(
        hf("SiglipVisionModel", "SiglipVisionConfig", image_size=36), (36, 36), (4, 4), cls=False
    ),
    "timm with a rest": Readable(lambda: VisionTransformer(**(PLAIN | {"img_size": 36})), (36, 36)),
    "siglip 2": Readable(hf("Siglip2VisionModel", "Siglip2VisionConfig", num_patches=16), (32, 48), (4, 6), cls=False),
    "pixtral": Readable(
        hf("PixtralVisionModel", "PixtralVisionConfig", num_hidden_layers=3, head_dim=24), cls=False
    ),
    "aimv2": Readable(hf("Aimv2VisionModel", "Aimv2VisionConfig"), cls=False),
    "yolos": Readable(
        hf("YolosModel", "YolosConfig", image_size=[32, 48], num_detection_tokens=5), (32, 48), (4, 6)
    ),
    "vitdet": Readable(
        hf("VitDetModel", "VitDetConfig", pretrain_image_size=32, window_size=0), cls=False
    ),
    "radio": Readable(hf("RadioModel", "RadioConfig")),
    "timm in transformers": Readable(wrapped),
    "swin": Readable(hf_stages("SwinModel", "SwinConfig", **STAGES), **ONE),
    "swinv2": Readable(hf_stages("Swinv2Model", "Swinv2Config", **STAGES), **ONE),
    "hiera": Readable(
        hf_stages("HieraModel", "HieraConfig", image_size=[64, 64], embed_dim=8, depths=[1, 1, 1, 1]),
        (64, 64), (2, 2), 64, 32, 4, cls=False, hierarchical=True,
    ),
    "segformer": Readable(
        hf_stages("SegformerModel", "SegformerConfig", image_size=224, depths=[1] * 4, hidden_sizes=[8, 16, 16, 32],
                  num_attention_heads=[1, 1, 1, 2]),
        (224, 224), (7, 7), 32, 32, 4, cls=False, hierarchical=True,
    ),
    "pvt": Readable(
        hf_stages("PvtModel", "PvtConfig", image_size=64, depths=[1] * 4, hidden_sizes=[8, 16, 16, 32],
                  num_attention_heads=[1, 1, 1, 2]),
        (64, 64), (2, 2), 32, 32, 4, hierarchical=True,
    ),
    "torchvision": Readable(torchvision_vit, grid=(2, 2), width=32, patch=16, layers=2),
    "torchvision swin": Readable(
        torchvision_swin, (224, 224), (28, 28), 32, 8, 2, cls=False, hierarchical=True
    ),
    "open_clip": Readable(open_clip_vit),
    "open_clip timm": Readable(open_clip_timm),
    "torch.hub clip": Readable(ClipVisionTransformer, grid=(2, 2), width=32, patch=16, layers=2),
    "torch.hub dinov2": Readable(lambda: DinoVisionTransformer(rope=False), grid=(2, 2), width=32, patch=16, layers=2),
    "torch.hub dinov3": Readable(
        lambda: DinoVisionTransformer(rope=True), (224, 224), (14, 14), width=32, patch=16, layers=2
    ),
    "torch.hub blocks": Readable(
        lambda: hub_dino.Encoder(hub_dino.MemEffAttention, 32, 2, 2, 16), (224, 224), (14, 14), 32, 16, 2
    ),
}  # fmt: skip
