"""Tiny random models of transformers' true classes with their processors, saved as `save_pretrained` does."""

from __future__ import annotations

from pathlib import Path

import torch

_PROMPT = {"hidden_size": 32, "image_size": 128, "patch_size": 16, "mask_input_channels": 4}
_DECODER = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 64},
    "iou_head_hidden_dim": 32,
}


def save_sam2(folder: Path) -> None:
    from transformers import (
        Sam2Config,
        Sam2HieraDetConfig,
        Sam2ImageProcessor,
        Sam2Model,
        Sam2Processor,
        Sam2VisionConfig,
    )

    backbone = Sam2HieraDetConfig(
        hidden_size=16,
        num_attention_heads=1,
        image_size=[128, 128],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[4, 4, 4, 4],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[128, 64, 32, 16],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=32,
    )
    torch.manual_seed(0)
    config = Sam2Config(vision_config=vision, prompt_encoder_config=_PROMPT, mask_decoder_config=_DECODER)
    _spread(Sam2Model(config)).save_pretrained(folder)
    images = Sam2ImageProcessor(size={"height": 128, "width": 128}, mask_size={"height": 32, "width": 32})
    Sam2Processor(images).save_pretrained(folder)


def save_sam(folder: Path) -> None:
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    vision = {
        **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 128, "patch_size": 16},
        **{"output_channels": 32, "mlp_dim": 32, "window_size": 4, "global_attn_indexes": [1], "num_pos_feats": 16},
    }
    torch.manual_seed(0)
    config = SamConfig(vision_config=vision, prompt_encoder_config=_PROMPT, mask_decoder_config=_DECODER)
    _spread(SamModel(config)).save_pretrained(folder)
    images = SamImageProcessor(
        size={"longest_edge": 128},
        pad_size={"height": 128, "width": 128},
        mask_size={"longest_edge": 32},
        mask_pad_size={"height": 32, "width": 32},
    )
    SamProcessor(images).save_pretrained(folder)


def _spread(model: torch.nn.Module) -> torch.nn.Module:
    """The model with large weights, so that its masks are neither empty nor full and depend on the clicks."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.copy_(torch.randn_like(weight) / weight[0].numel() ** 0.5)
            if "iou_prediction_head" in name and weight.ndim > 1:
                weight.mul_(3)
    return model.eval()
