"""Every vision entry of transformers' auto mappings, with random weights and few layers.

Of a vision-language model the vision tower is built, by its own class and the configuration that the whole model gives
it. What a model wants to be fed is read from the names of its forward's parameters.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto import modeling_auto

from spatialboost.experiments.coverage import Built, NotExaminedError

MAPPINGS = (
    "IMAGE",
    "IMAGE_CLASSIFICATION",
    "BACKBONE",
    "ZERO_SHOT_IMAGE_CLASSIFICATION",
    "IMAGE_TEXT_TO_TEXT",
    "VIDEO_CLASSIFICATION",
    "MASKED_IMAGE_MODELING",
    "IMAGE_SEGMENTATION",
    "SEMANTIC_SEGMENTATION",
    "UNIVERSAL_SEGMENTATION",
    "DEPTH_ESTIMATION",
    "OBJECT_DETECTION",
    "ZERO_SHOT_OBJECT_DETECTION",
    "MASK_GENERATION",
    "KEYPOINT_DETECTION",
    "POSE_ESTIMATION",
    "IMAGE_TO_IMAGE",
)
TOWERS = ["visual", "vision_tower", "vision_model", "vision_encoder", "vision_embed_tokens", "image_encoder"]
TOWERS += ["image_tower", "vision_tokenizer", "encoder", "vqmodel"]
DEPTHS = ["num_hidden_layers", "num_layers", "encoder_layers", "decoder_layers", "depth", "num_encoder_layers"]
DEPTHS += ["num_decoder_layers", "num_self_attends_per_block"]
DERIVED = {"out_features", "out_indices", "stage_names", "model_type", "transformers_version"}
PACKED = {"grid_thw", "image_grid_thw"}
LAYERS = 2


def names() -> list[str]:
    """`type:Class`, once each."""
    found: dict[str, None] = {}
    for mapping in MAPPINGS:
        for kind, classes in getattr(modeling_auto, f"MODEL_FOR_{mapping}_MAPPING_NAMES").items():
            found |= dict.fromkeys(f"{kind}:{c}" for c in ([classes] if isinstance(classes, str) else classes))
    return list(found)


def build(name: str) -> Built:
    """The model, or the vision tower of one that also has a language model."""
    kind, _, class_name = name.partition(":")
    if (why := EXCLUDED.get(kind)) is not None:
        raise NotExaminedError(why)
    cls, options = getattr(transformers, class_name), OPTIONS.get(kind, {}) | OPTIONS.get(class_name, {})
    config, note = cls.config_class(**WHOLE.get(kind, {})), "few layers"
    if modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(kind) == class_name or kind in LANGUAGE:
        path, cls, config = _tower(cls, config)
        note = f"{path}, {note}"
    try:
        model = cls(small(config, options)).eval()
    except ImportError as error:
        raise NotExaminedError(str(error).strip().partition(". ")[0]) from error
    if cls.forward is nn.Module.forward:  # a tokenizer of images
        encoded = feed(model, kind, cls.encode)
        if kind == "apertus1p5":  # gives code numbers alone, through which no gradient flows
            return Built(model, lambda m: m.encoder(encoded["pixel_values"]), note)
        return Built(model, lambda m: m.encode(**encoded), note)
    fed = feed(model, kind, cls.forward)
    return Built(model, lambda m: m(**fed), note)


def small(config: Any, options: dict[str, Any]) -> Any:
    """The configuration anew with few layers, in it and in those that it holds."""
    if config.model_type.startswith("timm_"):
        return config
    kept = {k: v for k, v in config.to_dict().items() if k not in DERIVED}
    return type(config).from_dict(kept | _fewer(config) | options)


def _fewer(config: Any) -> dict[str, Any]:
    held = {k: small(v, {}) for k, v in vars(config).items() if isinstance(v, transformers.PretrainedConfig)}
    stages = getattr(config, "out_indices", None) or []
    if (depths := getattr(config, "depths", None)) is not None:
        return held | {"depths": [min(1, d) for d in depths]} | ({"out_indices": stages} if stages else {})
    depths = {key: getattr(config, key, None) for key in DEPTHS}
    if any(isinstance(d, list | tuple) for d in depths.values()):
        return held | {k: [min(1, n) for n in d] for k, d in depths.items() if isinstance(d, list | tuple)}
    count = max(LAYERS, len(stages))
    cut: dict[str, Any] = {key: count for key, d in depths.items() if isinstance(d, int) and d > count}
    before = {getattr(config, key) for key in cut}
    lists = {k: v for k, v in vars(config).items() if isinstance(v, list) and before and k.lstrip("_") not in DERIVED}
    for key, value in lists.items():
        if len(value) in before:
            cut[key] = [*_kinds(value), *value][:count]
        elif key.endswith(("indexes", "indices", "blocks")):
            cut[key] = [i for i in value if i < count] or [count - 1]
    return held | cut | ({"out_indices": [i + 1 for i in range(count)]} if len(stages) > 1 else {})


def _kinds(values: list[Any]) -> list[Any]:
    """Each value once: of layers of several kinds, one of each goes first."""
    return [value for i, value in enumerate(values) if value not in values[:i]]


def _tower(cls: Any, config: Any) -> tuple[str, Any, Any]:
    """Path, class and configuration of the vision tower, as the whole model builds it."""
    try:
        with torch.device("meta"):
            whole = cls(config)
    except Exception:  # a default configuration of the language model that does not build
        vision = config.vision_config
        classes = [c for c in vars(sys.modules[cls.__module__]).values() if inspect.isclass(c)]
        own = [
            c
            for c in classes
            if getattr(c, "config_class", None) is type(vision) and c.forward is not nn.Module.forward
        ]
        own = [c for c in own if "forward" in vars(c)]
        return "vision tower", own[-1] if own else transformers.AutoModel._model_mapping[type(vision)], vision
    for name in TOWERS:
        for path, module in whole.named_modules():
            if path.rpartition(".")[2] == name and isinstance(
                getattr(module, "config", None), transformers.PretrainedConfig
            ):
                return path, type(module), module.config
    raise LookupError(f"{cls.__name__} has no vision tower under a known name")


# --- what to feed


def feed(model: Any, kind: str, method: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(method).parameters
    wanted = [n for n, p in parameters.items() if n in FEED and (n in ALWAYS or p.default is p.empty)]
    cache = {"use_cache": False} if "use_cache" in parameters else {}
    return {n: FEED[n](model, kind) for n in wanted} | cache


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def of(config: Any, *keys: str, default: Any = None) -> Any:
    """The first of these settings that the configuration, or the vision configuration in it, has."""
    for one in (config, getattr(config, "vision_config", None), getattr(config, "backbone_config", None)):
        for key in keys:
            if (value := getattr(one, key, None)) is not None:
                return value
    return default


def side(config: Any) -> tuple[int, int]:
    size = of(config, "image_size", "img_size", "size", default=224)
    if isinstance(size, dict):
        size = next(iter(size.values()))
    return tuple(size[-2:]) if isinstance(size, list | tuple) else (size, size)


def pixels(model: Any, kind: str) -> Tensor:
    config, parameters = model.config, inspect.signature(type(model).forward).parameters
    channels = of(config, "num_channels", "in_channels", "in_chans", default=3)
    patch = of(config, "patch_size", default=14)
    patch = patch[-1] if isinstance(patch, list | tuple) else patch
    if kind in SHAPES:
        return noise(*SHAPES[kind])
    if PACKED & set(parameters):
        return packed(model, kind)
    if "spatial_shapes" in parameters:
        return noise(1, 16, channels * patch * patch)
    if "aspect_ratio_ids" in parameters:
        return noise(1, 1, config.max_num_tiles, channels, *side(config))
    if "pixel_position_ids" in parameters:
        return noise(1, 36, channels * patch * patch)
    if kind in VIDEO:
        return noise(1, of(config, "num_frames", default=8), channels, *side(config))
    return noise(1, channels, *side(config))


def grid(model: Any, kind: str) -> Tensor:
    return torch.tensor([[1, 4, 8], [1, 8, 4]])


def packed(model: Any, kind: str) -> Tensor:
    """Patches of two images one below the other."""
    config = model.config
    channels, patch = of(config, "in_channels", "in_chans", "num_channels", default=3), config.patch_size
    return noise(64, channels * of(config, "temporal_patch_size", default=1) * patch * patch)


def tokens(model: Any, kind: str) -> Tensor:
    return torch.arange(2, 10)[None]


ALWAYS = {
    "pixel_values",
    "pixel_values_videos",
    "spatial_shapes",
    "pixel_attention_mask",
    "input_ids",
    "image_sizes",
    "flattened_patches",
    "target_sizes",
    "bbox",
} | PACKED
FEED = {
    "pixel_values_videos": pixels,
    "pixel_values": pixels,
    "hidden_states": pixels,
    "grid_thw": grid,
    "image_grid_thw": grid,
    "pixel_position_ids": lambda m, k: torch.cartesian_prod(torch.arange(6), torch.arange(6))[None],
    "merge_sizes": lambda m, k: torch.tensor([2, 2]),
    "target_sizes": lambda m, k: torch.tensor([[8, 8]]),
    "image_sizes": lambda m, k: torch.tensor([side(m.config)]),
    "pixel_attention_mask": lambda m, k: torch.ones(1, 16, dtype=torch.long),
    "spatial_shapes": lambda m, k: torch.tensor([[4, 4]]),
    "aspect_ratio_ids": lambda m, k: torch.ones(1, 1, dtype=torch.long),
    "aspect_ratio_mask": lambda m, k: torch.ones(1, 1, m.config.max_num_tiles, dtype=torch.long),
    "flattened_patches": lambda m, k: noise(1, 16, 2 + 3 * of(m.config, "patch_size", default=16) ** 2).abs() * 3,
    "input_ids": tokens,
    **dict.fromkeys(("classes_input_ids", "tasks_input_ids"), tokens),
    **dict.fromkeys(
        ("classes_attention_mask", "tasks_attention_mask"), lambda m, k: torch.ones(1, 8, dtype=torch.long)
    ),
    "classes_structure": lambda m, k: torch.ones(1, dtype=torch.long),
    "task_inputs": lambda m, k: torch.ones(1, m.config.task_seq_len, dtype=torch.long),
    "bbox": lambda m, k: torch.linspace(0, 0.9, 32).view(1, 8, 4),
    "attention_mask": lambda m, k: torch.ones(1, 8, dtype=torch.long),
}
VIDEO = {"videomt", "timesformer", "videomae", "vivit", "videoprism_vision_model", "videoprism", "vjepa2"}
# Of pixel values, where neither an image nor `packed` fits: patches as images, with the channels last, of two frames.
SHAPES = {
    "inkling_mm_model": (4, 2, 40, 40, 3),
    **dict.fromkeys(("inkling2", "inkling2_loop"), (64, 40, 40, 3)),
    "kimi_k25": (64, 3, 14, 14),
    "minicpm_ocr": (1, 3, 16, 64 * 16),
    "minicpmv4_6": (1, 3, 16, 64 * 16),
    "minicpmv4_7": (1, 3, 16, 64 * 16),
    "molmo2": (1, 27 * 27, 3 * 14 * 14),
    "muse_glimmer": (64, 2 * 3 * 14 * 14),
    "muse_spark": (64, 2 * 3 * 14 * 14),
    "paddleocr_vl": (1, 64, 3, 14, 14),
    "rf_detr": (1, 3, 448, 448),
    **dict.fromkeys(("sam2", "sam2_video", "edgetam", "edgetam_video"), (1, 3, 1024, 1024)),
}
# Entries with a language model whose class is not the one that answers in text.
LANGUAGE = {"cohere2_vision", "shieldgemma2"}
EXCLUDED = {
    "evolla": "reads proteins, no images",
    "fuyu": "has no image encoder: patches go straight into the language model",
    "gemma4_unified": "has no image encoder: patches go straight into the language model",
    "mistral4": "has no image encoder: a language model alone",
    **dict.fromkeys(
        ("pp_ocrv5_server_det", "pp_ocrv6_medium_det", "pp_ocrv6_small_det"),
        "a detector of text with a convolutional backbone, whose default configuration does not run",
    ),
}
# Settings without which the default configuration does not build, or builds something huge.
FOUR = {"num_hidden_layers": 4}
REPVIT = {
    "model_type": "timm_wrapper",
    "architecture": "repvit_m1",
    "num_classes": 2,
    "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
}
SHORT = {"num_frames": 2, "image_size": 72, "num_spatial_layers": 2, "num_temporal_layers": 2}
OPTIONS: dict[str, dict[str, Any]] = {
    "cvt": {"depth": [1, 2, 3]},  # stage i indexes its own blocks by i
    "depth_pro": {
        "patch_size": 48,
        **{
            f"{part}_model_config": {"model_type": "dinov2", "image_size": 48, "patch_size": 16, "num_hidden_layers": 4}
            for part in ("image", "patch", "fov")
        },
        "intermediate_hook_ids": [2, 1],
    },
    "BeitForSemanticSegmentation": FOUR | {"out_indices": [1, 2, 3, 4]},
    "Data2VecVisionForSemanticSegmentation": FOUR | {"out_indices": [1, 2, 3, 4]},
    "pp_doclayout_v2": {"class_thresholds": [0.5] * 25, "class_order": list(range(25))},
    "llama4": {"intermediate_size": 3072},  # the default does not fit the default width
    "inkling_mm_model": {"n_layers": 4},  # fewer fold a whole patch at once, into a projection of gigabytes
    **{kind: {"image_size": 224} for kind in ("lighton_ocr", "mistral3", "mistral_large4")},
    "dots3_note": {"per_layer_config": {1: {"num_local_experts": 4, "num_experts_per_tok": 2}}},
    **{
        kind: {"num_blocks": 1, "image_size": 160} for kind in ("eomt", "eomt_dinov3", "videomt")
    },  # the last ones, which see the queries
    "emu3": {"base_channels": 32, "hidden_size": 128},
    "step3p7": {"image_size": 224},
    "videoprism_vision_model": SHORT,
    "vivit": {"num_frames": 4},
    "mllama": {"image_size": 112, "num_global_layers": 2, "intermediate_layers_indices": [0, 1]},
    "dpt": FOUR | {"backbone_out_indices": [0, 1, 2, 3]},
} | {
    f"PerceiverForImageClassification{kind}": {"num_cross_attention_heads": 1} for kind in ("Fourier", "ConvProcessing")
}
# The same for the whole of a model of which the vision tower is taken.
WHOLE: dict[str, dict[str, Any]] = {
    "timm_backbone": {"backbone": "vit_tiny_patch16_224"},
    "timm_wrapper": {"architecture": "vit_tiny_patch16_224"},
    "aya_vision": {"vision_config": {"model_type": "siglip_vision_model"}},
    "blip-2": {"qformer_config": {"use_qformer_text_input": True}},
    "deepseek_ocr2": {
        "vision_config": {
            "encoder_config": {"hidden_size": 896, "num_attention_heads": 14, "num_key_value_heads": 2},
        }
    },
    "gemma4": {"vision_config": {}},
    # the default names its architecture under a misspelt key
    **{kind: {"vision_config": {"backbone_config": REPVIT}} for kind in ("edgetam", "edgetam_video")},
    "lw_detr": {"projector_scale_factors": [1.0]},
    "sapiens2": {"head_config": {"upsample_out_channels": [32, 32], "conv_out_channels": [32]}},
    "videoprism": {"vision_config": SHORT},
    **{
        kind: {"vision_config": {"image_size": 256}, "prompt_encoder_config": {"image_size": 256}}
        for kind in ("sam", "sam_hq")
    },
    "perception_lm": {
        "vision_config": {
            "model_type": "timm_wrapper",
            "architecture": "vit_pe_lang_large_patch14_448",
            "model_args": {"depth": 2, "img_size": 224},
        }
    },
} | {k: {"vocabulary_map": {"<image>": 1}} for k in ("chameleon", "emu3")}
