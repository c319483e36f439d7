"""Build the encoder that a configuration names."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from spatialboost.errors import SpatialBoostError
from spatialboost.training.config import EncoderConfig

logger = logging.getLogger(__name__)


def build_encoder(config: EncoderConfig) -> nn.Module:
    """The encoder of a configuration, in evaluation mode.

    Example:
        >>> shape = {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": 0}
        >>> type(build_encoder(EncoderConfig(name="VisionTransformer", kwargs=shape))).__name__
        'VisionTransformer'
    """
    encoder = _timm(config) if config.library == "timm" else _transformers(config)
    if config.mean is not None and config.std is not None:
        if config.library != "timm":
            raise SpatialBoostError("encoder.mean and encoder.std are for timm; transformers models go by their type")
        encoder.pretrained_cfg = {
            **(getattr(encoder, "pretrained_cfg", None) or {}),
            "mean": config.mean,
            "std": config.std,
        }
    return encoder.eval()


def _timm(config: EncoderConfig) -> Any:
    import timm
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from timm.models.vision_transformer import VisionTransformer

    if config.name == "VisionTransformer":
        encoder: Any = VisionTransformer(**config.kwargs)
    elif timm.is_model(config.name):
        encoder = timm.create_model(config.name, pretrained=config.pretrained, **{"num_classes": 0, **config.kwargs})
    else:
        close = timm.list_models(f"*{config.name.partition('.')[0][:12]}*")[:4]
        hint = f"; close to it: {', '.join(close)}" if close else ""
        raise SpatialBoostError(f'timm has no model "{config.name}"{hint}')
    if config.weights is not None:
        try:
            state = {name: value.float() for name, value in load_file(config.weights).items()}
            encoder.load_state_dict(state)
        except (OSError, SafetensorError) as error:
            raise SpatialBoostError(f"cannot read encoder.weights {config.weights}: {error}") from None
        except RuntimeError as error:  # torch lists every missing and unexpected key on lines of their own
            reason = " ".join(str(error).split())[:300]
            raise SpatialBoostError(f"encoder.weights {config.weights} do not fit {config.name}: {reason}") from None
    elif not config.pretrained:
        logger.warning("the encoder %s has random weights: set encoder.weights or encoder.pretrained", config.name)
    return encoder


def _transformers(config: EncoderConfig) -> Any:
    from transformers import AutoModel

    if config.weights is not None or config.pretrained:
        raise SpatialBoostError(
            "encoder.weights and encoder.pretrained are for timm; transformers takes a Hub id or folder"
        )
    try:
        model = AutoModel.from_pretrained(
            config.name, trust_remote_code=False, use_safetensors=True, dtype=torch.float32, **config.kwargs
        )
    except (OSError, ValueError) as error:
        raise SpatialBoostError(f'cannot load the encoder "{config.name}": {str(error).splitlines()[0]}') from None
    return getattr(model, "vision_model", model)
