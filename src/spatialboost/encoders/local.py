"""The configuration of an encoder in a file or a folder of this machine."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spatialboost.encoders.libraries import ALIASES, LIBRARIES
from spatialboost.encoders.run_file import user_path
from spatialboost.encoders.spec import EncoderConfig
from spatialboost.errors import SpatialBoostError

logger = logging.getLogger(__name__)

HEAD_WIDTH = 64  # features of a head: no file says it, and the ViTs of timm with these names have this width


def config_of(spec: str | os.PathLike[str]) -> EncoderConfig:
    """The configuration for ``LIBRARY:NAME``, a folder of timm or transformers, or the safetensors file of a ViT.

    Example:
        >>> config_of("timm:vit_small_patch14_dinov2").name
        'vit_small_patch14_dinov2'

    Raises:
        SpatialBoostError: It is none of these.
    """
    text = os.fspath(spec)
    prefix, colon, name = text.partition(":")
    if colon and name and prefix in (*LIBRARIES, *ALIASES):
        return EncoderConfig.of(text)
    path = user_path(text)
    if path.is_dir():
        return _config_of_folder(path)
    if path.is_file() and path.suffix == ".safetensors":
        return config_of_file(path)
    raise SpatialBoostError(
        f"encoder is {text!r}; expected {', '.join(f'{each}:NAME' for each in LIBRARIES)}, a folder with config.json "
        "and safetensors, or the safetensors file of a ViT"
    )


def _config_of_folder(folder: Path) -> EncoderConfig:
    """A folder that timm or transformers has saved."""
    from spatialboost.encoders.foreign.source import Source

    config = Source(str(folder)).json("config.json", required=True) or {}
    if "model_type" in config:
        return EncoderConfig(str(folder), "hf", pretrained=True)
    if "architecture" in config:
        return EncoderConfig(f"local-dir:{folder}", "timm", pretrained=True)
    what = "it is a delta: give its base" if "base_model" in config else "it has neither model_type nor architecture"
    raise SpatialBoostError(f"{folder / 'config.json'} is not the config of an encoder: {what}")


def config_of_file(file: Path) -> EncoderConfig:
    """The configuration of a ViT with timm's names in a safetensors file, from the shapes of its tensors.

    Raises:
        SpatialBoostError: It is no safetensors file, or not such a ViT.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as content:
            shapes = {key: tuple(content.get_slice(key).get_shape()) for key in content.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise SpatialBoostError(f"cannot read {file}: {error}") from None
    kwargs = _vit_kwargs(shapes)
    if kwargs is None:
        raise SpatialBoostError(
            f"{file} has no patch_embed.proj.weight, pos_embed and blocks with the names and shapes of a ViT of timm; "
            f"it has {', '.join(list(shapes)[:3])} ... Give a folder with its config.json, or LIBRARY:NAME"
        )
    logger.info("%s: a ViT with %s; taken to have %d features a head", file.name, kwargs, HEAD_WIDTH)
    return EncoderConfig("VisionTransformer", "timm", kwargs, weights=file)


def _vit_kwargs(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any] | None:
    """The arguments of timm's `VisionTransformer` for tensors of these shapes, None if they are of something else."""
    patches, positions = shapes.get("patch_embed.proj.weight", ()), shapes.get("pos_embed", ())
    blocks = {int(found[1]) for key in shapes if (found := re.match(r"blocks\.(\d+)\.attn\.qkv\.weight$", key))}
    if len(patches) != 4 or len(positions) != 3 or not blocks or patches[0] % HEAD_WIDTH:
        return None
    width, patch = patches[0], patches[2]
    registers = shapes.get("reg_token", (1, 0))[1]
    prefix = registers + ("cls_token" in shapes)
    has_own = math.isqrt(positions[1]) ** 2 != positions[1]  # positions of the tokens before the patches
    grid = math.isqrt(positions[1] - prefix * has_own)
    hidden = shapes.get("blocks.0.mlp.fc1.weight", (4 * width,))[0]
    return {
        "img_size": grid * patch,
        "patch_size": patch,
        "embed_dim": width,
        "depth": max(blocks) + 1,
        "num_heads": width // HEAD_WIDTH,
        "mlp_ratio": hidden / width,
        "qkv_bias": "blocks.0.attn.qkv.bias" in shapes,
        "init_values": 1.0 if "blocks.0.ls1.gamma" in shapes else None,
        "class_token": "cls_token" in shapes,
        "reg_tokens": registers,
        "no_embed_class": not has_own,
        "global_pool": "avg" if "fc_norm.weight" in shapes else "token" if "cls_token" in shapes else "",
        "num_classes": shapes.get("head.weight", (0,))[0],
    }
