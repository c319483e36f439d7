"""Depth estimators of transformers with tiny random weights, saved as a user would have them in a folder."""

from __future__ import annotations

from pathlib import Path

import torch

BACKBONE = {
    "model_type": "dinov2",
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "patch_size": 14,
    "image_size": 70,
}


def save_depth_anything(folder: Path, *, metric: bool = True, max_depth: int = 20, size: int = 70) -> Path:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, DPTImageProcessor

    config = DepthAnythingConfig(
        backbone_config={**BACKBONE, "out_indices": [1, 2, 3, 4], "reshape_hidden_states": False},
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        head_hidden_size=4,
        depth_estimation_type="metric" if metric else "relative",
        max_depth=max_depth,
    )
    torch.manual_seed(0)
    _randomise(DepthAnythingForDepthEstimation(config), 1.2).save_pretrained(folder)
    DPTImageProcessor(
        size={"height": size, "width": size}, keep_aspect_ratio=True, ensure_multiple_of=14, do_pad=False
    ).save_pretrained(folder)
    return folder


def save_depth_pro(folder: Path, *, angle: float = 50.0, fov: bool = True) -> Path:
    """``angle``: about the field of view in degrees that the network says."""
    from transformers import DepthProConfig, DepthProForDepthEstimation, DepthProImageProcessor

    tower = {**BACKBONE, "patch_size": 8, "image_size": 32}
    config = DepthProConfig(
        image_model_config=tower,
        patch_model_config=tower,
        fov_model_config=tower,
        patch_size=32,
        fusion_hidden_size=16,
        intermediate_hook_ids=[3, 1],
        intermediate_feature_dims=[16, 16],
        scaled_images_feature_dims=[16, 16, 16],
        use_fov_model=fov,
        num_fov_head_layers=2,
    )
    torch.manual_seed(0)
    model = _randomise(DepthProForDepthEstimation(config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("fov_model.head") and name.endswith("bias"):
                last = parameter
        if fov:
            last.fill_(angle)
    model.save_pretrained(folder)
    DepthProImageProcessor(size={"height": 128, "width": 128}).save_pretrained(folder)
    return folder


def save_zoedepth(folder: Path) -> Path:
    from transformers import ZoeDepthConfig, ZoeDepthForDepthEstimation, ZoeDepthImageProcessor

    config = ZoeDepthConfig(
        backbone_config={
            "model_type": "beit",
            "hidden_size": 16,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "patch_size": 16,
            "image_size": 64,
            "out_indices": [1, 2, 3, 4],
            "use_relative_position_bias": True,
            "reshape_hidden_states": False,
        },
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        bottleneck_features=8,
        num_relative_features=4,
        bin_embedding_dim=8,
        num_attractors=[4, 2, 2, 1],
        patch_transformer_hidden_size=8,
        patch_transformer_intermediate_size=16,
        patch_transformer_num_attention_heads=2,
        bin_configurations=[{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0, "name": "nyu"}],
    )
    torch.manual_seed(0)
    _randomise(ZoeDepthForDepthEstimation(config)).save_pretrained(folder)
    ZoeDepthImageProcessor(size={"height": 64, "width": 64}, ensure_multiple_of=32).save_pretrained(folder)
    return folder


def _randomise(model: torch.nn.Module, scale: float = 1.5) -> torch.nn.Module:
    """Weights so large that depth differs between pixels; transformers' own are almost zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, scale / parameter[0].numel() ** 0.5)
    return model
